// Products with a matrix [rows, columns], most of them in int8: value = code * largest[row] / 127.
//
// For a few streams the matrix is read once and multiplied in float. For very many it is written out,
// for a library. What lies between is in tensor_cores.cu. All read 16 columns at once: `columns` is a
// multiple of 16.

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
