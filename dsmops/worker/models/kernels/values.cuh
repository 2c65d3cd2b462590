// Values of the compute dtypes by their bits, so that no header of the CUDA toolkit is needed.
// bf16 has no instructions before compute capability 8.0; its bits are the upper half of a float's.

struct f16 { unsigned short bits; };
struct bf16 { unsigned short bits; };

__device__ inline float value(float x) { return x; }
__device__ inline float value(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ inline float value(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

template <typename T> __device__ T rounded(float x);
template <> __device__ inline float rounded<float>(float x) { return x; }
template <> __device__ inline f16 rounded<f16>(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <> __device__ inline bf16 rounded<bf16>(float x) {
    const unsigned bits = __float_as_uint(x);
    if (x != x) return bf16{0x7fff};
    return bf16{(unsigned short)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// The magnitude of x as an unsigned number: ordered as magnitudes are, NaN above all.
__device__ inline unsigned magnitude(float x) { return __float_as_uint(x) & 0x7fffffff; }

// The greatest of all lanes' numbers, in every lane.
__device__ inline unsigned warp_max(unsigned x) {
#pragma unroll
    for (int other = 16; other > 0; other /= 2) {
        x = max(x, __shfl_xor_sync(0xffffffff, x, other));
    }
    return x;
}

// The int8 code of x where `inverse` is 127 / largest; 0 for what is not finite.
__device__ inline float code(float x, float inverse) {
    const float scaled = rintf(__fmul_rn(x, inverse));
    return fabsf(scaled) <= 127.f ? scaled : 0.f;
}

__device__ inline float inverse_of(float largest) {
    return __fdiv_rn(127.f, fmaxf(largest, 1.17549435e-38f));
}

// Four int8 of a word as floats: 2^23 + 128 + x has x in its lowest byte.
__device__ inline void unpack_word(int word, float* to) {
    const unsigned raised = (unsigned)word ^ 0x80808080u;
    to[0] = __uint_as_float(__byte_perm(raised, 0x4b000000u, 0x7440)) - 8388736.f;
    to[1] = __uint_as_float(__byte_perm(raised, 0x4b000000u, 0x7441)) - 8388736.f;
    to[2] = __uint_as_float(__byte_perm(raised, 0x4b000000u, 0x7442)) - 8388736.f;
    to[3] = __uint_as_float(__byte_perm(raised, 0x4b000000u, 0x7443)) - 8388736.f;
}

// The values of 16 bytes as floats.
template <typename S> __device__ inline void unpack(int4 raw, float* to) {
    const S* const each = (const S*)&raw;
#pragma unroll
    for (int i = 0; i < (int)(16 / sizeof(S)); i++) to[i] = value(each[i]);
}
template <> __device__ inline void unpack<signed char>(int4 raw, float* to) {
    unpack_word(raw.x, to);
    unpack_word(raw.y, to + 4);
    unpack_word(raw.z, to + 8);
    unpack_word(raw.w, to + 12);
}

// To see whether anything compiles.
__global__ void nothing() {}
