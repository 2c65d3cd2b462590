// Products with a matrix [rows, columns], most of them in int8: value = code * largest[row] / 127.
//
// For a few streams the matrix is read once and multiplied in float. For more, activations are split
// into two int8 parts, 14 bits in all, a library multiplies them with the tensor cores, exact in
// int32, and the sums are joined. All read 16 columns at once: `columns` is a multiple of 16.

// Sixteen values of x as floats.
template <typename T> __device__ inline void read16(const T* x, float* to) {
#pragma unroll
    for (int i = 0; i < (int)sizeof(T); i++) {
        unpack<T>(((const int4*)x)[i], to + i * (16 / sizeof(T)));
    }
}

// out [count, rows] = x [count, columns] * matrix^T for count <= N, added to out with `adds`.
// The matrix is of int8 codes, or of T without `largest`. A block has ROWS rows; its warps share the
// columns.
template <typename T, typename S, int N>
__global__ void multiply_few(
    const T* x, const S* matrix, const float* largest, T* out,
    int count, int rows, int columns, int adds) {
    constexpr int ROWS = 4, MOST_WARPS = 8;
    __shared__ float sums[MOST_WARPS][ROWS * N];
    const int first = blockIdx.x * ROWS;
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float sum[ROWS][N];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int n = 0; n < N; n++) sum[r][n] = 0.f;
    for (int column = threadIdx.x * 16; column < columns; column += blockDim.x * 16) {
        float weights[ROWS][16];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int row = min(first + r, rows - 1);
            read16(matrix + (long long)row * columns + column, weights[r]);
        }
#pragma unroll
        for (int n = 0; n < N; n++) {
            float each[16];
            read16(x + (long long)min(n, count - 1) * columns + column, each);
#pragma unroll
            for (int r = 0; r < ROWS; r++)
#pragma unroll
                for (int i = 0; i < 16; i++) sum[r][n] += weights[r][i] * each[i];
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int n = 0; n < N; n++) {
            float all = sum[r][n];
#pragma unroll
            for (int other = 16; other > 0; other /= 2) all += __shfl_xor_sync(0xffffffff, all, other);
            if (lane == 0) sums[warp][r * N + n] = all;
        }
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * N; i += blockDim.x) {
        const int row = first + i / N, n = i % N;
        if (row >= rows || n >= count) continue;
        float all = 0.f;
        for (int w = 0; w < warps; w++) all += sums[w][i];
        if (sizeof(S) == 1) all *= largest[row] / 127.f;
        T* const to = out + (long long)n * rows + row;
        *to = rounded<T>(adds ? value(*to) + all : all);
    }
}

// parts int8 [2, count, columns] of x [count, columns]: x = (first + second / 254) * scale / 127,
// `scales` [count] the greatest magnitude of a row, NaN and infinity included.
template <typename T>
__global__ void split(const T* x, signed char* parts, float* scales, int count, int columns) {
    __shared__ unsigned most[32];
    const T* const from = x + (long long)blockIdx.x * columns;
    signed char* const first = parts + (long long)blockIdx.x * columns;
    signed char* const second = first + (long long)count * columns;
    const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
    unsigned largest = 0;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        largest = max(largest, magnitude(value(from[i])));
    }
    largest = warp_max(largest);
    if (lane == 0) most[threadIdx.x / 32] = largest;
    __syncthreads();
    const float scale = __uint_as_float(warp_max(lane < warps ? most[lane] : 0));
    const float inverse = inverse_of(scale);
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        const float given = value(from[i]), coarse = code(given, inverse);
        first[i] = (signed char)coarse;
        const float left = fminf(fmaxf(given * inverse - coarse, -0.5f), 0.5f);
        second[i] = (signed char)rintf(254.f * left);
    }
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
}

// out [count, rows] of the sums int32 [2, count, rows] of both parts, added to out with `adds`.
// A block has one stream's rows, a thread four of them.
template <typename T>
__global__ void join(
    const int4* sums, const float* scales, const float* largest, T* out,
    int count, int rows, int adds) {
    const int stream = blockIdx.y, four = blockIdx.x * blockDim.x + threadIdx.x;
    if (four >= rows / 4) return;
    const int4 coarse = sums[(long long)stream * (rows / 4) + four];
    const int4 fine = sums[(long long)(count + stream) * (rows / 4) + four];
    const float scale = scales[stream] / (127.f * 254.f * 127.f);
    const float each[4] = {
        254.f * coarse.x + fine.x, 254.f * coarse.y + fine.y,
        254.f * coarse.z + fine.z, 254.f * coarse.w + fine.w};
    T* const to = out + (long long)stream * rows + 4 * four;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float all = each[i] * scale * largest[4 * four + i];
        to[i] = rounded<T>(adds ? value(to[i]) + all : all);
    }
}

// out [rows, columns]: the values of the matrix, a thread for 16 of them.
template <typename T>
__global__ void write_out(const signed char* codes, const float* largest, T* out, int rows, int columns) {
    const long long at = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 16;
    if (at >= (long long)rows * columns) return;
    const int4 raw = *(const int4*)(codes + at);
    const float scale = largest[at / columns] / 127.f;
    float each[16];
    unpack<signed char>(raw, each);
    int4 packed[sizeof(T)];
    T* const to = (T*)packed;
#pragma unroll
    for (int i = 0; i < 16; i++) to[i] = rounded<T>(each[i] * scale);
#pragma unroll
    for (int i = 0; i < (int)sizeof(T); i++) ((int4*)(out + at))[i] = packed[i];
}
