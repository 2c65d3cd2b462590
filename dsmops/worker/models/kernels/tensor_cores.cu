// Products of more than a few streams' activations with an int8 matrix, by the tensor cores.
//
// They multiply f16 or bf16 and sum in float. The codes of the matrix become such numbers in
// registers, exactly, so that memory only gives a byte for each. A warp has 16 * MT rows of the
// matrix, 8 * NT streams, and 64 columns at a time; WM, WN and WK warps of a block share rows,
// streams and columns. Blocks can share columns too (gridDim.y): the last one to arrive sums what
// the others left, in their order.
//
// A sum over columns may take them in any order, if both factors take the same. So a lane has 16
// columns that lie together: four words of codes, each for one step of 16 columns in which the tensor
// cores expect a lane's columns 2t, 2t + 1, 2t + 8 and 2t + 9, t being the lane's number modulo 4.

// Four codes of a word as pairs of T: columns 0 and 1, columns 2 and 3.
template <typename T> __device__ void widen(unsigned codes, unsigned& low, unsigned& high);
template <> __device__ inline void widen<f16>(unsigned codes, unsigned& low, unsigned& high) {
    // 0x6400 with a byte in its low half is 1024 + byte; 0x6480 is 1152.
    const unsigned raised = codes ^ 0x80808080u;
    low = __byte_perm(raised, 0x64646464u, 0x4140);
    high = __byte_perm(raised, 0x64646464u, 0x4342);
    asm("sub.f16x2 %0, %0, %1;" : "+r"(low) : "r"(0x64806480u));
    asm("sub.f16x2 %0, %0, %1;" : "+r"(high) : "r"(0x64806480u));
}

template <typename T>
__device__ void multiply_add(float* sum, const unsigned* a, unsigned b_low, unsigned b_high);
template <>
__device__ inline void multiply_add<f16>(
    float* sum, const unsigned* a, unsigned b_low, unsigned b_high) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(b_low));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[2]), "r"(a[3]), "r"(b_high));
#endif
}

#if __CUDA_ARCH__ >= 800
template <> __device__ inline void widen<bf16>(unsigned codes, unsigned& low, unsigned& high) {
    // 0x4300 with 7 bits in its low half is 128 + these; a negative code is 256 less than that.
    const unsigned bits = codes & 0x7f7f7f7fu, signs = codes & 0x80808080u, minus_one = 0xbf80bf80u;
    low = __byte_perm(bits, 0x43434343u, 0x4140);
    high = __byte_perm(bits, 0x43434343u, 0x4342);
    const unsigned less_low = __byte_perm(signs, 0x43434343u, 0x4140);
    const unsigned less_high = __byte_perm(signs, 0x43434343u, 0x4342);
    asm("fma.rn.bf16x2 %0, %1, %2, %0;" : "+r"(low) : "r"(less_low), "r"(minus_one));
    asm("fma.rn.bf16x2 %0, %1, %2, %0;" : "+r"(high) : "r"(less_high), "r"(minus_one));
}

template <>
__device__ inline void multiply_add<bf16>(
    float* sum, const unsigned* a, unsigned b_low, unsigned b_high) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}
#endif

// 16 bytes that nothing writes meanwhile; read before the products that follow, not where the compiler
// likes.
__device__ inline int4 read16(const signed char* from) {
    int4 found;
    asm volatile("ld.global.nc.v4.s32 {%0, %1, %2, %3}, [%4];"
        : "=r"(found.x), "=r"(found.y), "=r"(found.z), "=r"(found.w) : "l"(from));
    return found;
}

// Copy 16 bytes to shared memory, or zeros; they are there after `copied`.
__device__ inline void copy16(void* to, const void* from, bool there) {
#if __CUDA_ARCH__ >= 800
    const unsigned shared = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
        :: "r"(shared), "l"(from), "r"(there ? 16 : 0) : "memory");
#else
    *(int4*)to = there ? *(const int4*)from : int4{0, 0, 0, 0};
#endif
}
__device__ inline void end_of_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Wait until at most LEFT of the groups of copies are under way.
template <int LEFT> __device__ inline void copied() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" :: "n"(LEFT) : "memory");
#endif
}

// out [count, rows] = x [count, columns] * matrix^T, added to out with `adds`. `partial` float
// [gridDim.z, gridDim.x, gridDim.y, M * N] and `arrived` int [gridDim.z, gridDim.x], zeros, which it
// leaves so, are for gridDim.y > 1.
template <typename T, int MT, int NT, int WM, int WN, int WK, int STAGES, int AHEAD>
__global__ void __launch_bounds__(32 * WM * WN * WK) multiply_tiles(
    const T* __restrict__ x, const signed char* __restrict__ matrix,
    const float* __restrict__ largest, T* out, float* partial,
    int* arrived, int count, int rows, int columns, int adds) {
    constexpr int M = 16 * MT * WM, N = 8 * NT * WN, K = 64 * WK;
    constexpr int THREADS = 32 * WM * WN * WK, EACH = MT * NT * 4;
    constexpr int PIECES = N * K / 8;  // of 16 bytes
    constexpr int LENGTH = K + 8;      // of a row of the tile; 8 more keep lanes in different banks
    constexpr int TILE = N * LENGTH;
    constexpr int SIDE = NT < 4 ? NT : 4;  // groups of streams that are multiplied side by side
    constexpr int SUMS = M + 4;  // of one stream; 4 more do the same
    __shared__ __align__(16) T tiles[STAGES * TILE];
    __shared__ bool last;
    static_assert(sizeof(T) * STAGES * TILE >= sizeof(float) * 8 * NT * SUMS);

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, part = lane % 4;
    const int wm = warp % WM, wn = warp / WM % WN, wk = warp / (WM * WN);
    const int first_row = blockIdx.x * M, first_stream = blockIdx.z * N;
    const int steps = (columns + K - 1) / K;
    const int begin = steps * blockIdx.y / gridDim.y, end = steps * (blockIdx.y + 1) / gridDim.y;

    const signed char* codes[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = min(first_row + (wm * MT + m) * 16 + 8 * half + group, rows - 1);
            codes[m][half] = matrix + (long long)row * columns;
        }
    const int scaled = min(first_row + (int)threadIdx.x % (M / 2) * 2, rows - 2);
    const float2 scale = {largest[scaled] * (1.f / 127.f), largest[scaled + 1] * (1.f / 127.f)};
    float sum[MT][NT][4];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int c = 0; c < 4; c++) sum[m][n][c] = 0.f;

    auto copy_tile = [&](int step) {
        T* const tile = tiles + (step - begin) % STAGES * TILE;
#pragma unroll
        for (int first = 0; first < PIECES; first += THREADS) {
            const int piece = first + threadIdx.x;
            if (PIECES % THREADS && piece >= PIECES) break;
            const int stream = piece / (K / 8), at = piece % (K / 8) * 8, column = step * K + at;
            const bool there = step < end && first_stream + stream < count && column < columns;
            const T* const from = x + (long long)(first_stream + stream) * columns + column;
            copy16(tile + stream * LENGTH + at, there ? from : x, there);
        }
        end_of_copies();
    };
    int4 read[AHEAD][MT][2];
    auto read_codes = [&](int step, int4 (&to)[MT][2]) {
        // What lies behind the end is multiplied with zeros.
        const int column = min(step * K + wk * 64 + part * 16, columns - 16);
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) to[m][half] = read16(codes[m][half] + column);
    };

#pragma unroll
    for (int ahead = 0; ahead < AHEAD; ahead++) read_codes(begin + ahead, read[ahead]);
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; stage++) copy_tile(begin + stage);
#pragma unroll 1
    for (int first = begin; first < end; first += AHEAD) {
#pragma unroll
        for (int ahead = 0; ahead < AHEAD; ahead++) {
            const int step = first + ahead;
            if (step >= end) break;
            copied<STAGES - 2>();
            __syncthreads();
            unsigned a[MT][4][4];
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int4 words = read[ahead][m][half];
                    widen<T>(words.x, a[m][0][half], a[m][0][2 + half]);
                    widen<T>(words.y, a[m][1][half], a[m][1][2 + half]);
                    widen<T>(words.z, a[m][2][half], a[m][2][2 + half]);
                    widen<T>(words.w, a[m][3][half], a[m][3][2 + half]);
                }
            read_codes(step + AHEAD, read[ahead]);
            copy_tile(step + STAGES - 1);
            const T* const from = tiles + (step - begin) % STAGES * TILE
                + (wn * NT * 8 + group) * LENGTH + wk * 64 + part * 16;
#pragma unroll
            for (int n = 0; n < NT; n += SIDE) {
                int4 near[SIDE], far[SIDE];
#pragma unroll
                for (int i = 0; i < SIDE; i++) {
                    near[i] = *(const int4*)(from + 8 * (n + i) * LENGTH);
                    far[i] = *(const int4*)(from + 8 * (n + i) * LENGTH + 8);
                }
                // A product waits for the one before it in the same sum, not for those beside it.
#pragma unroll
                for (int k = 0; k < 4; k++)
#pragma unroll
                    for (int i = 0; i < SIDE; i++)
#pragma unroll
                        for (int m = 0; m < MT; m++) {
                            const int4 words = k < 2 ? near[i] : far[i];
                            multiply_add<T>(
                                sum[m][n + i], a[m][k], k % 2 ? words.z : words.x,
                                k % 2 ? words.w : words.y);
                        }
            }
        }
    }
    copied<0>();

    // The sums of warps that share columns are added in shared memory, WN parts of the tile in turn.
    // Then each thread has two rows, and every ABREAST-th stream.
    constexpr int ABREAST = 2 * THREADS / M, AT_ONCE = 4;
    static_assert(ABREAST >= 1);
    float* const sums = (float*)tiles;
    const int tile = blockIdx.z * gridDim.x + blockIdx.x;
    const int its_row = threadIdx.x % (M / 2) * 2, its_stream = threadIdx.x / (M / 2);
    // Four streams at once, so that their reads wait together. `all`: their sums.
    auto finish = [&](int stream, int end_of_turn, const float2 (&all)[AT_ONCE]) {
        unsigned* to[AT_ONCE];
        unsigned given[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int at = first_stream + stream + i * ABREAST;
            const bool there = at < count && stream + i * ABREAST < end_of_turn && first_row + its_row < rows;
            to[i] = there ? (unsigned*)(out + (long long)at * rows + first_row + its_row) : nullptr;
            given[i] = adds && there ? *to[i] : 0;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            T two[2] = {((const T*)&given[i])[0], ((const T*)&given[i])[1]};
            two[0] = rounded<T>(all[i].x * scale.x + value(two[0]));
            two[1] = rounded<T>(all[i].y * scale.y + value(two[1]));
            if (to[i]) *to[i] = *(const unsigned*)two;
        }
    };
    float* const parts = partial + (long long)tile * gridDim.y * M * N;
#pragma unroll 1
    for (int turn = 0; turn < WN; turn++) {
#pragma unroll 1
        for (int before = 0; before < WK; before++) {
            __syncthreads();
            if (wn != turn || wk != before) continue;
            float* const place = sums + 2 * part * SUMS + wm * MT * 16 + group;
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const int m = i / (NT * 4), n = i / 4 % NT, c = i % 4;
                float& one = place[(8 * n + c % 2) * SUMS + 16 * m + c / 2 * 8];
                one = sum[m][n][c] + (before ? one : 0.f);
            }
        }
        __syncthreads();
        for (int stream = its_stream; stream < 8 * NT; stream += ABREAST * AT_ONCE) {
            float2 all[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const int at = min(stream + i * ABREAST, 8 * NT - 1);
                all[i] = *(const float2*)(sums + at * SUMS + its_row);
            }
            const int first = turn * 8 * NT + stream;
            if (gridDim.y == 1) {
                finish(first, (turn + 1) * 8 * NT, all);
            } else {
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) {
                    if (stream + i * ABREAST >= 8 * NT) continue;
                    float* const to = parts + (blockIdx.y * N + first + i * ABREAST) * M + its_row;
                    __stcg((float2*)to, all[i]);
                }
            }
        }
    }
    if (gridDim.y == 1) return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(arrived + tile, 1) == gridDim.y - 1;
        if (last) arrived[tile] = 0;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int stream = its_stream; stream < N; stream += ABREAST * AT_ONCE) {
        float2 all[AT_ONCE] = {};
        for (int y = 0; y < gridDim.y; y++) {
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const int at = min(stream + i * ABREAST, N - 1);
                const float2 one = __ldcg((const float2*)(parts + (y * N + at) * M + its_row));
                all[i].x += one.x;
                all[i].y += one.y;
            }
        }
        finish(stream, N, all);
    }
}
