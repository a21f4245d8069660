// Tiles from NV12 to NV12: what geometry.py says, drawn as OpenCV draws it on the CPU.
//
// Planes are tightly packed: Y rows of `width` px, then rows of (width + 1) / 2 pairs U, V. An axis
// of a window is a crop of `length` samples from `start` of the plane, enlarged by a scale, of which
// the tile takes what begins at the output px `offset`. `step` is source samples per output px in
// 1/2^32 (Q32): exact to 1e-5 of a sample over 32768 px, at the cost of whole numbers.

typedef unsigned char u8;
typedef long long i64;

const i64 ONE = 1LL << 32;

// geometry.Method
enum Method { LINEAR = 0, CUBIC = 1, AREA = 2 };

struct Axis {
    int start, length, offset;
    i64 step;
};

// One plane: `channels` samples a px, one after the other; `row` bytes per row.
struct From {
    const u8* samples;
    i64 row;
    int channels;
};

__device__ __forceinline__ float parts(i64 q32) { return (float)q32 * (1.0f / 4294967296.0f); }

__device__ __forceinline__ int inside(int index, const Axis& axis) {
    return axis.start + min(max(index, 0), axis.length - 1);
}

__device__ __forceinline__ float sample(const From& from, int x, int y, int channel) {
    return (float)__ldg(from.samples + y * from.row + (i64)x * from.channels + channel);
}

__device__ __forceinline__ u8 rounded(float value) {
    return (u8)min(max(__float2int_rn(value), 0), 255);
}

// The COUNT samples, the first of them and their weights, that the output px `at` is made of.
template <int COUNT>
struct Taps {
    int first;
    float weights[COUNT];
};

// Sample centres at half px (OpenCV: fx = (dx + 0.5) * scale - 0.5).
__device__ __forceinline__ i64 centre(const Axis& axis, int at) {
    return ((2LL * (at + axis.offset) + 1) * axis.step >> 1) - ONE / 2;
}

__device__ __forceinline__ Taps<2> linear(const Axis& axis, int at) {
    const i64 place = centre(axis, at);
    const float part = parts(place & (ONE - 1));
    return {(int)(place >> 32), {1.0f - part, part}};
}

// Cubic convolution with a = -0.75 (OpenCV's interpolateCubic).
__device__ __forceinline__ Taps<4> cubic(const Axis& axis, int at) {
    const i64 place = centre(axis, at);
    const float a = -0.75f, x = parts(place & (ONE - 1)), y = 1.0f - x;
    const float before = ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a;
    const float near = ((a + 2) * x - (a + 3)) * x * x + 1;
    const float far = ((a + 2) * y - (a + 3)) * y * y + 1;
    return {(int)(place >> 32) - 1, {before, near, far, 1.0f - before - near - far}};
}

template <int COUNT>
__device__ __forceinline__ float blended(
    const From& from, const Axis& ax, const Axis& ay, const Taps<COUNT>& x, const Taps<COUNT>& y,
    int channel) {
    float sum = 0;
    for (int j = 0; j < COUNT; ++j) {
        const int row = inside(y.first + j, ay);
        float across = 0;
        for (int i = 0; i < COUNT; ++i)
            across += x.weights[i] * sample(from, inside(x.first + i, ax), row, channel);
        sum += y.weights[j] * across;
    }
    return sum;
}

// The run of samples, in Q32, that an output px covers.
struct Run {
    i64 begin, end;
    int first, last;
};

__device__ __forceinline__ Run run_of(const Axis& axis, int at) {
    const i64 begin = (at + axis.offset) * axis.step;
    const i64 end = min(begin + axis.step, (i64)axis.length << 32);
    return {begin, end, (int)(begin >> 32), (int)((end - 1) >> 32)};
}

// How much of the sample lies in the run.
__device__ __forceinline__ float share(const Run& run, int index) {
    return parts(min(run.end, (i64)(index + 1) << 32) - max(run.begin, (i64)index << 32));
}

__device__ __forceinline__ float averaged(
    const From& from, const Axis& ax, const Axis& ay, int x, int y, int channel) {
    const Run across = run_of(ax, x), down = run_of(ay, y);
    float sum = 0;
    for (int j = down.first; j <= down.last; ++j) {
        float row = 0;
        for (int i = across.first; i <= across.last; ++i)
            row += share(across, i) * sample(from, ax.start + i, ay.start + j, channel);
        sum += share(down, j) * row;
    }
    return sum / (parts(across.end - across.begin) * parts(down.end - down.begin));
}

__device__ __forceinline__ void draw(
    const From& from, const Axis& ax, const Axis& ay, int method, int x, int y, u8* to) {
    for (int c = 0; c < from.channels; ++c) {
        float value;
        if (method == AREA) {
            value = averaged(from, ax, ay, x, y, c);
        } else if (method == CUBIC) {
            value = blended(from, ax, ay, cubic(ax, x), cubic(ay, y), c);
        } else {
            value = blended(from, ax, ay, linear(ax, x), linear(ay, y), c);
        }
        to[c] = rounded(value);
    }
}

// Draws one tile, of columns x rows px at (left, top) of the canvas, all four even. A px is a
// thread; threads with blockIdx.z = 1 draw chroma, a quarter of them. The rest of the arguments are
// the axes of the luma and of the chroma window, and their methods.
extern "C" __global__ void draw_tile(
    const unsigned char* __restrict__ luma, const unsigned char* __restrict__ chroma,
    unsigned char* __restrict__ canvas_luma, unsigned char* __restrict__ canvas_chroma, int width,
    int canvas_width, int left, int top, int columns, int rows, int luma_method, int chroma_method,
    int lx_start, int lx_length, int lx_offset, long long lx_step, int ly_start, int ly_length,
    int ly_offset, long long ly_step, int cx_start, int cx_length, int cx_offset, long long cx_step,
    int cy_start, int cy_length, int cy_offset, long long cy_step) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (blockIdx.z == 0) {
        if (x >= columns || y >= rows) return;
        const Axis ax = {lx_start, lx_length, lx_offset, lx_step};
        const Axis ay = {ly_start, ly_length, ly_offset, ly_step};
        u8* to = canvas_luma + (i64)(top + y) * canvas_width + left + x;
        draw({luma, width, 1}, ax, ay, luma_method, x, y, to);
        return;
    }
    if (x >= columns / 2 || y >= rows / 2) return;
    const Axis ax = {cx_start, cx_length, cx_offset, cx_step};
    const Axis ay = {cy_start, cy_length, cy_offset, cy_step};
    u8* to = canvas_chroma + (i64)(top / 2 + y) * canvas_width + left + 2 * x;
    draw({chroma, (i64)(width + 1) / 2 * 2, 2}, ax, ay, chroma_method, x, y, to);
}

// Fills columns x rows px at (left, top) of the canvas, all four even, with one colour. One thread
// per chroma sample.
extern "C" __global__ void fill(
    unsigned char* __restrict__ canvas_luma, unsigned char* __restrict__ canvas_chroma,
    int canvas_width, int left, int top, int columns, int rows, unsigned char luma,
    unsigned char u, unsigned char v) {
    const int x = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
    const int y = 2 * (blockIdx.y * blockDim.y + threadIdx.y);
    if (x >= columns || y >= rows) return;
    u8* upper = canvas_luma + (i64)(top + y) * canvas_width + left + x;
    u8* lower = upper + canvas_width;
    upper[0] = upper[1] = lower[0] = lower[1] = luma;
    u8* pair = canvas_chroma + (i64)(top + y) / 2 * canvas_width + left + x;
    pair[0] = u;
    pair[1] = v;
}
