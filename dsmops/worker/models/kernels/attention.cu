// One step of attention to keys and values, a block for each stream and head.
//
// In self-attention the block first turns query and key, and writes key and value to their place in
// the ring. Then its warps share the positions that the stream has used, each group of lanes with a
// softmax of its own, and merge them. Nothing is read beyond these positions.
//
// With int8 keys the query is split into two int8 parts, 14 bits in all, and multiplied with the
// keys as they are; sums are exact in int32. Everything else is summed in float.

#define NOTHING (-__int_as_float(0x7f800000))

// T: the compute dtype. S: what keys and values are stored as, T or signed char.
// Shapes: `packed` [B, 3, H, D], or [B, H, D] without SELF: what was projected; `stored`
// [B, H, 2, positions, D]; `scales` [B, H, 2, positions], for int8: the greatest magnitude; `turns`
// [B, D/2]: cosine and sine of each pair; `offsets` [B]: positions done. `out` [B, H, D].
template <typename T, typename S, int D, int WARPS, bool SELF>
__global__ void __launch_bounds__(WARPS * 32) attend(
    const T* packed, S* stored, float* scales, const float2* turns,
    const long long* offsets, T* out, int heads, int positions, int context) {
    constexpr bool INT8 = sizeof(S) == 1;
    constexpr int PER = 16 / sizeof(S);  // values that a lane reads at once, in 16 bytes
    constexpr int LANES = D / PER;       // that read one position
    constexpr int ROWS = 32 / LANES;     // positions that a warp reads at once
    constexpr int UNROLL = 4;
    constexpr int PAIRS = D / 64 > 0 ? D / 64 : 1;
    __shared__ int query_parts[2][D / 4];
    __shared__ float query[D], query_scale;
    __shared__ float tops[WARPS], totals[WARPS], sums[WARPS][D];

    const int stream = blockIdx.x / heads, head = blockIdx.x % heads;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    S* const keys = stored + (long long)blockIdx.x * 2 * positions * D;
    S* const values = keys + (long long)positions * D;
    float* const key_scales = INT8 ? scales + (long long)blockIdx.x * 2 * positions : nullptr;
    float* const value_scales = INT8 ? key_scales + positions : nullptr;
    int newest = positions - 1, filled = positions;
    if (SELF) {
        const long long done = offsets[stream];
        newest = (int)(done % positions);
        filled = done + 1 < positions ? (int)done + 1 : positions;
    }
    // The softmax is of powers of two.
    const float log2_scale = 1.44269504f * rsqrtf((float)D);

    for (int part = warp; part < (SELF ? 3 : 1); part += WARPS) {  // query, key, value
        const T* const source =
            packed + ((long long)(SELF ? 3 * stream + part : stream) * heads + head) * D;
        S* const place = (part == 1 ? keys : values) + (long long)newest * D;
        float x[PAIRS][2];
        unsigned largest = 0;
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            const int pair = lane + 32 * i;
            x[i][0] = x[i][1] = 0.f;
            if (pair >= D / 2) continue;
            x[i][0] = value(source[2 * pair]);
            x[i][1] = value(source[2 * pair + 1]);
            if (SELF && part < 2) {
                const float2 turn = turns[stream * (D / 2) + pair];
                const float real = x[i][0] * turn.x - x[i][1] * turn.y;
                const float imaginary = x[i][0] * turn.y + x[i][1] * turn.x;
                x[i][0] = value(rounded<T>(real));
                x[i][1] = value(rounded<T>(imaginary));
            }
            largest = max(largest, max(magnitude(x[i][0]), magnitude(x[i][1])));
        }
        // NaN and infinity stay in the scale, and so in what attention reads.
        const float scale = INT8 ? __uint_as_float(warp_max(largest)) : 0.f;
        const float inverse = inverse_of(scale);
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            const int pair = lane + 32 * i;
            if (pair >= D / 2) continue;
#pragma unroll
            for (int side = 0; side < 2; side++) {
                const int at = 2 * pair + side;
                if constexpr (INT8) {
                    const float first = code(x[i][side], inverse);
                    if (part == 0) {
                        // What rounding left, at most a half, in steps of 1/254.
                        const float left = fminf(fmaxf(x[i][side] * inverse - first, -0.5f), 0.5f);
                        ((signed char*)query_parts[0])[at] = (signed char)first;
                        ((signed char*)query_parts[1])[at] = (signed char)rintf(254.f * left);
                    } else {
                        place[at] = (signed char)first;
                    }
                } else if (part == 0) {
                    query[at] = x[i][side] * log2_scale;
                } else {
                    place[at] = rounded<T>(x[i][side]);
                }
            }
        }
        if (INT8 && lane == 0) {
            if (part == 0) query_scale = scale * log2_scale / (127.f * 254.f * 127.f);
            if (part == 1) key_scales[newest] = scale;
            if (part == 2) value_scales[newest] = scale;
        }
    }
    __syncthreads();

    const int group = lane / LANES, part = lane % LANES;
    int first_part[4], second_part[4];
    float own_query[PER], scale = 0.f;
    if constexpr (INT8) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            first_part[i] = query_parts[0][part * 4 + i];
            second_part[i] = query_parts[1][part * 4 + i];
        }
        scale = query_scale;
    } else {
#pragma unroll
        for (int i = 0; i < PER; i++) own_query[i] = query[part * PER + i];
    }
    float top = NOTHING, total = 0.f, sum[PER];
#pragma unroll
    for (int i = 0; i < PER; i++) sum[i] = 0.f;

    for (int first = warp * ROWS * UNROLL; first < filled; first += WARPS * ROWS * UNROLL) {
        int4 key[UNROLL], seen[UNROLL];
        float key_scale[UNROLL], value_scale[UNROLL], score[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            // Lanes behind the end read the last position again, and count for nothing.
            const int at = min(first + u * ROWS + group, filled - 1);
            key[u] = *(const int4*)(keys + at * D + part * PER);
            seen[u] = *(const int4*)(values + at * D + part * PER);
            key_scale[u] = INT8 ? key_scales[at] : 1.f;
            value_scale[u] = INT8 ? value_scales[at] : 1.f;
        }
        float highest = top;
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if constexpr (INT8) {
                int coarse = 0, fine = 0;
                coarse = __dp4a(key[u].x, first_part[0], coarse);
                coarse = __dp4a(key[u].y, first_part[1], coarse);
                coarse = __dp4a(key[u].z, first_part[2], coarse);
                coarse = __dp4a(key[u].w, first_part[3], coarse);
                fine = __dp4a(key[u].x, second_part[0], fine);
                fine = __dp4a(key[u].y, second_part[1], fine);
                fine = __dp4a(key[u].z, second_part[2], fine);
                fine = __dp4a(key[u].w, second_part[3], fine);
                int dot = 254 * coarse + fine;  // below 2^29 for D = 128
#pragma unroll
                for (int other = LANES / 2; other > 0; other /= 2) {
                    dot += __shfl_xor_sync(0xffffffff, dot, other);
                }
                score[u] = (float)dot * (scale * key_scale[u]);
            } else {
                float each[PER], dot = 0.f;
                unpack<S>(key[u], each);
#pragma unroll
                for (int i = 0; i < PER; i++) dot += own_query[i] * each[i];
#pragma unroll
                for (int other = LANES / 2; other > 0; other /= 2) {
                    dot += __shfl_xor_sync(0xffffffff, dot, other);
                }
                score[u] = dot;
            }
            const int at = first + u * ROWS + group;
            const int age = at <= newest ? newest - at : newest - at + positions;
            const bool counts = at < filled && age < context;
            if (!counts) {
                // It adds nothing, whatever its scale is.
                score[u] = NOTHING;
                value_scale[u] = 0.f;
            }
            highest = fmaxf(highest, score[u]);
        }
        const float base = highest == NOTHING ? 0.f : highest;
        const float kept = exp2f(top - base);
        top = highest;
        total *= kept;
#pragma unroll
        for (int i = 0; i < PER; i++) sum[i] *= kept;
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const float share = exp2f(score[u] - base);
            total += share;
            const float weight = share * value_scale[u];
            float each[PER];
            unpack<S>(seen[u], each);
#pragma unroll
            for (int i = 0; i < PER; i++) sum[i] += weight * each[i];
        }
    }

    // Merge the groups of a warp, then the warps.
#pragma unroll
    for (int other = LANES; other < 32; other *= 2) {
        const float its_top = __shfl_xor_sync(0xffffffff, top, other);
        const float highest = fmaxf(top, its_top), base = highest == NOTHING ? 0.f : highest;
        const float mine = exp2f(top - base), its = exp2f(its_top - base);
        total = total * mine + __shfl_xor_sync(0xffffffff, total, other) * its;
#pragma unroll
        for (int i = 0; i < PER; i++) {
            sum[i] = sum[i] * mine + __shfl_xor_sync(0xffffffff, sum[i], other) * its;
        }
        top = highest;
    }
    if (group == 0) {
#pragma unroll
        for (int i = 0; i < PER; i++) sums[warp][part * PER + i] = sum[i];
    }
    if (lane == 0) {
        tops[warp] = top;
        totals[warp] = total;
    }
    __syncthreads();
    for (int channel = threadIdx.x; channel < D; channel += WARPS * 32) {
        float highest = NOTHING, all = 0.f, result = 0.f;
        for (int w = 0; w < WARPS; w++) highest = fmaxf(highest, tops[w]);
        const float base = highest == NOTHING ? 0.f : highest;
        for (int w = 0; w < WARPS; w++) {
            const float share = exp2f(tops[w] - base);
            all += share * totals[w];
            result += share * sums[w][channel];
        }
        out[(long long)blockIdx.x * D + channel] =
            rounded<T>(INT8 ? result / (all * 127.f) : result / all);
    }
}
