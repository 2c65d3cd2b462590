"""What `up` serves on which card: both models where they fit in memory and time, else one."""

import pytest

from dsmops.devices import Device
from dsmops.dtypes import ALL_INT8
from dsmops.errors import DriverMissingError, InputError
from dsmops.operations.configs.planning import find_device
from dsmops.operations.up.plan import UpPlan, plan_up


def card(name: str) -> Device:
    return find_device([name], None)


def served(plan: UpPlan) -> list[str]:
    return [model.name for model in plan.models]


@pytest.mark.parametrize("name", ["h200", "l40s", "t4"])
def test_a_large_card_gets_both_models(name: str) -> None:
    plan = plan_up((), cpu=False, device=card(name))
    assert served(plan) == ["stt-1b-en_fr", "tts-1.6b-en_fr"]
    assert all(model.batch_size >= 1 for model in plan.models)


def test_a_small_card_gets_speech_to_text_and_is_told_why() -> None:
    plan = plan_up((), cpu=False, device=card("rtx2070"))
    assert served(plan) == ["stt-1b-en_fr"]
    assert any("tts-1.6b-en_fr is omitted" in note for note in plan.notes)


def test_two_models_get_fewer_streams_than_one() -> None:
    """The steps of both must fit into a frame."""
    both = plan_up((), cpu=False, device=card("t4"))
    alone = plan_up(("stt-1b-en_fr",), cpu=False, device=card("t4"))
    assert both.models[0].batch_size < alone.models[0].batch_size


def test_the_shipped_models_need_no_card() -> None:
    plan = plan_up(("tiny",), cpu=False)
    assert served(plan) == ["tiny", "tiny-tts"]
    assert plan.device is None


def test_a_cpu_gets_few_streams() -> None:
    plan = plan_up((), cpu=True)
    assert [(model.name, model.batch_size) for model in plan.models] == [("stt-1b-en_fr", 4)]


def test_without_a_card_the_hint_names_the_ways_without_one() -> None:
    with pytest.raises(DriverMissingError) as caught:
        plan_up((), cpu=False)
    assert "--model tiny" in caught.value.hint
    assert "--cpu" in caught.value.hint


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("stt-1b-en_fr", "stt-2.6b-en"), "the same purpose"),
        (("tiny", "tts-1.6b-en_fr"), "its own"),
        (("tyni",), "tyni"),
    ],
)
def test_models_that_do_not_go_together(names: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        plan_up(names, cpu=True)


def test_int8_is_proposed_where_it_carries_more() -> None:
    """Another model, or twice the streams; and it is not proposed where it is used."""
    for name in ("rtx2070", "gtx1650"):
        plain = plan_up((), cpu=False, device=card(name))
        in_int8 = plan_up((), cpu=False, device=card(name), quantised=ALL_INT8)
        streams = {model.name: model.batch_size for model in in_int8.models}
        assert f"would have {streams['stt-1b-en_fr']} streams of stt-1b-en_fr" in plain.notes[-1]
        assert not any("--weights" in note for note in in_int8.notes)
        assert in_int8.quantised == ALL_INT8
    # The command is for the models that were asked for.
    named = plan_up(("stt-1b-en_fr",), cpu=False, device=card("gtx1650"))
    assert named.notes[-1].startswith("`dsmops up --model stt-1b-en_fr --weights int8 --kv int8`")
    enough = plan_up((), cpu=False, device=card("h200"))
    assert not any("--weights" in note for note in enough.notes)


def test_a_model_that_fits_in_int8_only_is_told_so() -> None:
    both = ("stt-1b-en_fr", "tts-1.6b-en_fr")
    with pytest.raises(InputError) as caught:
        plan_up(both, cpu=False, device=card("rtx2070"))
    assert "--weights int8 --kv int8" in caught.value.hint
    assert served(plan_up(both, cpu=False, device=card("rtx2070"), quantised=ALL_INT8)) == [*both]


def test_a_model_that_was_named_must_fit() -> None:
    with pytest.raises(InputError, match="not fit"):
        plan_up(("stt-1b-en_fr", "tts-1.6b-en_fr"), cpu=False, device=card("rtx2070"))
