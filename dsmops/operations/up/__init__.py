"""`up`, `down`, `status`: one server of this user, from nothing to a real step, and back."""
