// The part of MessagePack that moshi-server speaks: https://github.com/msgpack/msgpack/blob/master/spec.md
const texts = new TextEncoder();
const bytes = new TextDecoder();

export function encode(value) {
  const size = (one) => {
    if (one instanceof Float32Array) return 5 + 5 * one.length;
    if (typeof one === "string") return 5 + 3 * one.length;
    if (typeof one === "number") return 9;
    return Object.entries(one).reduce((sum, [key, held]) => sum + size(key) + size(held), 5);
  };
  const view = new DataView(new ArrayBuffer(size(value)));
  let at = 0;
  const put = (one) => {
    if (one instanceof Float32Array) {
      view.setUint8(at, 0xdd);
      view.setUint32(at + 1, one.length);
      at += 5;
      for (const sample of one) {
        view.setUint8(at, 0xca);
        view.setFloat32(at + 1, sample);
        at += 5;
      }
    } else if (typeof one === "string") {
      const data = texts.encode(one);
      view.setUint8(at, 0xdb);
      view.setUint32(at + 1, data.length);
      new Uint8Array(view.buffer, at + 5).set(data);
      at += 5 + data.length;
    } else if (typeof one === "number") {
      view.setUint8(at, 0xd3);
      view.setBigInt64(at + 1, BigInt(one));
      at += 9;
    } else {
      const entries = Object.entries(one);
      view.setUint8(at++, 0x80 | entries.length);
      for (const [key, held] of entries) {
        put(key);
        put(held);
      }
    }
  };
  put(value);
  return view.buffer.slice(0, at);
}

export function decode(buffer) {
  const view = new DataView(buffer);
  let at = 0;
  const take = (count, read) => {
    const value = read.call(view, at);
    at += count;
    return value;
  };
  const text = (count) => bytes.decode(new Uint8Array(buffer, (at += count) - count, count));
  const list = (count) => Array.from({ length: count }, one);
  const map = (count) => Object.fromEntries(Array.from({ length: count }, () => [one(), one()]));
  const { getUint8: u8, getUint16: u16, getUint32: u32, getInt8: i8, getInt16: i16, getInt32: i32 } = view;
  function one() {
    const head = take(1, u8);
    if (head < 0x80) return head;
    if (head < 0x90) return map(head & 0x0f);
    if (head < 0xa0) return list(head & 0x0f);
    if (head < 0xc0) return text(head & 0x1f);
    if (head >= 0xe0) return head - 0x100;
    switch (head) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return (at += view.getUint8(at) + 1), null;
      case 0xc5: return (at += view.getUint16(at) + 2), null;
      case 0xc6: return (at += view.getUint32(at) + 4), null;
      case 0xca: return take(4, view.getFloat32);
      case 0xcb: return take(8, view.getFloat64);
      case 0xcc: return take(1, u8);
      case 0xcd: return take(2, u16);
      case 0xce: return take(4, u32);
      case 0xcf: return Number(take(8, view.getBigUint64));
      case 0xd0: return take(1, i8);
      case 0xd1: return take(2, i16);
      case 0xd2: return take(4, i32);
      case 0xd3: return Number(take(8, view.getBigInt64));
      case 0xd9: return text(take(1, u8));
      case 0xda: return text(take(2, u16));
      case 0xdb: return text(take(4, u32));
      case 0xdc: return list(take(2, u16));
      case 0xdd: return list(take(4, u32));
      case 0xde: return map(take(2, u16));
      case 0xdf: return map(take(4, u32));
    }
    throw new Error("the server sent something that is not MessagePack");
  }
  return one();
}
