// The picture a detection model sees, straight from the NV12 planes of a frame: shrunk, converted
// to the model's channels, normalised and padded, in one pass.
//
// The arithmetic is that of onnx_cpu.py with OpenCV on NV12, to the last bit but for rare ties: each
// plane is halved by averaging 2x2 samples as long as it stays at least as large as the picture;
// then it is interpolated (bilinear, sample centres at half px, edges repeated) in fixed point.
//
// Planes are tightly packed: Y width x height, then pairs U, V of (width + 1) / 2 x
// (height + 1) / 2. One thread per px of the model's input, which has three planes of
// in_width x in_height; the picture, width_px x height_px of it, lies at its top left.

#include <cuda_fp16.h>

typedef unsigned char u8;

// A plane as it is: samples `stride` bytes apart in rows of `row` bytes. OpenCV rounds an average
// of four that lies between two numbers up in a plane by itself, to the even one in pairs.
struct Source {
    const u8* samples;
    long long row;
    int stride;
    bool to_even;
};

__device__ __forceinline__ int quarter(const Source& from, int sum) {
    return (sum + 1 + (from.to_even ? (sum >> 2) & 1 : 1)) >> 2;
}

// The sample (x, y) of the plane halved LEVELS times, rounded at each.
template <int LEVELS>
struct Halved {
    static __device__ __forceinline__ int at(const Source& from, int x, int y) {
        int sum = 0;
#pragma unroll 1  // three levels unrolled would take most of the registers
        for (int j = 0; j < 2; ++j)
            for (int i = 0; i < 2; ++i) sum += Halved<LEVELS - 1>::at(from, 2 * x + i, 2 * y + j);
        return quarter(from, sum);
    }
};
template <>
struct Halved<0> {
    static __device__ __forceinline__ int at(const Source& from, int x, int y) {
        return __ldg(from.samples + y * from.row + (long long)x * from.stride);
    }
};

// As Halved, of any number of levels: those beyond three, which is 4K seen at 480 px, are rounded
// once.
__device__ __forceinline__ int halved(const Source& from, int levels, int x, int y) {
    switch (levels) {
        case 0:
            return Halved<0>::at(from, x, y);
        case 1:
            return Halved<1>::at(from, x, y);
        case 2:
            return Halved<2>::at(from, x, y);
        case 3:
            return Halved<3>::at(from, x, y);
    }
    const int side = 1 << (levels - 3);
    long long sum = 0;
    for (int j = 0; j < side; ++j)
        for (int i = 0; i < side; ++i) sum += Halved<3>::at(from, x * side + i, y * side + j);
    return (int)((sum + side * side / 2) / (side * side));
}

// Where a px of the picture lies among the samples of a plane: between `first` and `second`, with
// weights in 1/2048 (OpenCV's INTER_RESIZE_COEF_BITS).
struct Spot {
    int first, second, near, far;
};
__device__ __forceinline__ Spot spot(int to, int out, int in) {
    // As OpenCV: in double, kept as float.
    float place = (float)((to + 0.5) * ((double)in / out) - 0.5);
    const int first = (int)floorf(place);
    place -= first;
    return {max(first, 0), min(first + 1, in - 1), __float2int_rn((1.0f - place) * 2048.0f),
            __float2int_rn(place * 2048.0f)};
}

// The px of the shrunk plane. Rows are blended with 18 bits, of which OpenCV's vectors keep 14.
__device__ __forceinline__ int shrunk(const Source& from, int levels, const Spot& x, const Spot& y) {
    const int rows[2] = {y.first, y.second}, weights[2] = {y.near, y.far};
    int sum = 0;
    for (int j = 0; j < 2; ++j) {
        if (weights[j] == 0) continue;
        int row = 0;
        if (x.near != 0) row += x.near * halved(from, levels, x.first, rows[j]);
        if (x.far != 0) row += x.far * halved(from, levels, x.second, rows[j]);
        sum += (weights[j] * (row >> 4)) >> 16;
    }
    return (sum + 2) >> 2;
}

__device__ __forceinline__ void put(float* to, float value) { *to = value; }
__device__ __forceinline__ void put(__half* to, float value) { *to = __float2half(value); }

// A channel is y * Y + u * U + v * V + offset in the picture, and `black` beyond it.
struct Channel {
    float y, u, v, offset, black;
};

template <typename Number>
__device__ __forceinline__ void fill(
    const u8* luma, const u8* chroma, Number* input, int width, int height, int width_px,
    int height_px, int in_width, int in_height, int luma_levels, int chroma_levels,
    const Channel* channels) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= in_width || y >= in_height) return;
    const long long plane = (long long)in_width * in_height;
    Number* to = input + (long long)y * in_width + x;
    if (x >= width_px || y >= height_px) {
        for (int c = 0; c < 3; ++c) put(to + c * plane, channels[c].black);
        return;
    }
    const int across = (width + 1) / 2, down = (height + 1) / 2;
    const Source ys = {luma, width, 1, false}, us = {chroma, 2LL * across, 2, true},
                 vs = {chroma + 1, 2LL * across, 2, true};
    const Spot lx = spot(x, width_px, width >> luma_levels);
    const Spot ly = spot(y, height_px, height >> luma_levels);
    const Spot cx = spot(x, width_px, across >> chroma_levels);
    const Spot cy = spot(y, height_px, down >> chroma_levels);
    const int l = shrunk(ys, luma_levels, lx, ly);
    const int u = shrunk(us, chroma_levels, cx, cy), v = shrunk(vs, chroma_levels, cx, cy);
    for (int c = 0; c < 3; ++c) {
        const Channel& k = channels[c];
        put(to + c * plane, k.y * l + (k.u * u + k.v * v + k.offset));
    }
}

// `y0`..`black2`: the three channels of the model, in its order. Grid: covers the model's input.
extern "C" __global__ void letterbox_float(
    const unsigned char* __restrict__ luma, const unsigned char* __restrict__ chroma,
    float* __restrict__ input, int width, int height, int width_px, int height_px, int in_width,
    int in_height, int luma_levels, int chroma_levels, float y0, float u0, float v0, float offset0,
    float black0, float y1, float u1, float v1, float offset1, float black1, float y2, float u2,
    float v2, float offset2, float black2) {
    const Channel channels[3] = {{y0, u0, v0, offset0, black0},
                                 {y1, u1, v1, offset1, black1},
                                 {y2, u2, v2, offset2, black2}};
    fill(luma, chroma, input, width, height, width_px, height_px, in_width, in_height, luma_levels,
         chroma_levels, channels);
}

extern "C" __global__ void letterbox_half(
    const unsigned char* __restrict__ luma, const unsigned char* __restrict__ chroma,
    __half* __restrict__ input, int width, int height, int width_px, int height_px, int in_width,
    int in_height, int luma_levels, int chroma_levels, float y0, float u0, float v0, float offset0,
    float black0, float y1, float u1, float v1, float offset1, float black1, float y2, float u2,
    float v2, float offset2, float black2) {
    const Channel channels[3] = {{y0, u0, v0, offset0, black0},
                                 {y1, u1, v1, offset1, black1},
                                 {y2, u2, v2, offset2, black2}};
    fill(luma, chroma, input, width, height, width_px, height_px, in_width, in_height, luma_levels,
         chroma_levels, channels);
}
