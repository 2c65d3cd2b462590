// Products of more than a few streams' activations with an int8 matrix, by the tensor cores.
//
// They multiply f16 or bf16 and sum in float. The codes of the matrix become such numbers in
// registers, exactly, so that memory only gives a byte for each.
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

// 16 bytes that nothing writes meanwhile. Volatile, so that the compiler keeps the load before the
// products that follow.
__device__ inline int4 read16(const signed char* from) {
    int4 found;
    asm volatile("ld.global.nc.v4.s32 {%0, %1, %2, %3}, [%4];"
        : "=r"(found.x), "=r"(found.y), "=r"(found.z), "=r"(found.w) : "l"(from));
    return found;
}

// out [count, rows] = x [count, columns] * matrix^T, added to out with `adds`.
// A block has 16 * MT rows and 8 * NT streams; its warps share the columns, 64 at a time each. All
// read codes and activations straight from memory, the next ones while they multiply, so that nothing
// waits before the sums of the warps are added.
template <typename T, int MT, int NT, int WARPS>
__global__ void __launch_bounds__(32 * WARPS) multiply_many(
    const T* __restrict__ x, const signed char* __restrict__ matrix,
    const float* __restrict__ largest, T* out, int count, int rows, int columns, int adds) {
    constexpr int M = 16 * MT, N = 8 * NT, SUMS = M + 4;
    __shared__ __align__(16) float sums[WARPS][N * SUMS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, part = lane % 4;
    const int first_row = blockIdx.x * M, first_stream = blockIdx.z * N;

    const signed char* codes[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = min(first_row + 16 * m + 8 * half + group, rows - 1);
            codes[m][half] = matrix + (long long)row * columns;
        }
    int streams[NT];
#pragma unroll
    for (int n = 0; n < NT; n++) {
        streams[n] = min(first_stream + 8 * n + group, count - 1) * columns;
    }
    float sum[MT][NT][4];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int c = 0; c < 4; c++) sum[m][n][c] = 0.f;

    int4 read[2][MT][2], near[2][NT], far[2][NT];
    auto read_all = [&](int first, int slot) {
        // Lanes behind the end read the last columns, and count for nothing.
        const int column = min(first + part * 16, columns - 16);
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                read[slot][m][half] = read16(codes[m][half] + column);
            }
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const signed char* const from = (const signed char*)(x + streams[n] + column);
            near[slot][n] = read16(from);
            far[slot][n] = read16(from + 16);
        }
    };
    auto multiply = [&](int first, int slot) {
        const bool there = first + part * 16 < columns;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            unsigned a[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int4 words = read[slot][m][half];
                    const int word = k == 0 ? words.x : k == 1 ? words.y : k == 2 ? words.z : words.w;
                    widen<T>(there ? word : 0, a[m][half], a[m][2 + half]);
                }
#pragma unroll
            for (int n = 0; n < NT; n++) {
                const int4 words = k < 2 ? near[slot][n] : far[slot][n];
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    multiply_add<T>(
                        sum[m][n], a[m], k % 2 ? words.z : words.x, k % 2 ? words.w : words.y);
                }
            }
        }
    };
    constexpr int STEP = 64 * WARPS;
    read_all(warp * 64, 0);
#pragma unroll 1
    for (int first = warp * 64; first < columns; first += 2 * STEP) {
        if (first + STEP < columns) read_all(first + STEP, 1);
        multiply(first, 0);
        if (first + STEP >= columns) break;
        if (first + 2 * STEP < columns) read_all(first + 2 * STEP, 0);
        multiply(first + STEP, 1);
    }

    float* const place = sums[warp] + 2 * part * SUMS + group;
#pragma unroll
    for (int i = 0; i < MT * NT * 4; i++) {
        const int m = i / (NT * 4), n = i / 4 % NT, c = i % 4;
        place[(8 * n + c % 2) * SUMS + 16 * m + c / 2 * 8] = sum[m][n][c];
    }
    __syncthreads();
    // Two rows of a stream at once.
    for (int at = threadIdx.x; at < N * M / 2; at += 32 * WARPS) {
        const int row = first_row + at % (M / 2) * 2, stream = first_stream + at / (M / 2);
        if (row >= rows || stream >= count) continue;
        float2 all = {0.f, 0.f};
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float2 one = *(const float2*)(sums[w] + at / (M / 2) * SUMS + at % (M / 2) * 2);
            all.x += one.x;
            all.y += one.y;
        }
        const float2 most = *(const float2*)(largest + row);
        unsigned* const to = (unsigned*)(out + (long long)stream * rows + row);
        const unsigned given = adds ? *to : 0;
        const T* const before = (const T*)&given;
        T two[2];
        two[0] = rounded<T>(all.x * most.x * (1.f / 127.f) + value(before[0]));
        two[1] = rounded<T>(all.y * most.y * (1.f / 127.f) + value(before[1]));
        *to = *(const unsigned*)two;
    }
}
