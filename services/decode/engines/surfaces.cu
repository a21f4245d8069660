// A decoder's surface becomes the frame of a slot: upright, 8 bit, tightly packed NV12.
//
// Surface: `luma_rows` rows of Y, then rows of interleaved U, V; every row begins `pitch` bytes
// after the one before. Samples are bytes (NV12), or 16 bits with the sample in the upper bits
// (P010, P016; the lower bits are 0). Only the visible width x height px, from the top left, count.
//
// One thread per chroma sample of the frame: it writes that U, V pair and the up to four luma
// samples over it. Blocks are square, so that a quarter turn, which reads along columns, uses whole
// cache lines too.

typedef unsigned char u8;
typedef unsigned short u16;

// 16 to 8 bit, to nearest: 10-bit white of full range (1023 << 6) would become 256, hence the limit.
__device__ __forceinline__ u8 eight(u8 sample) { return sample; }
__device__ __forceinline__ u8 eight(u16 sample) { return (u8)min((sample + 128) >> 8, 255); }

struct Place {
    int x, y;
};

// Where in the source (width x height) the sample (x, y) of the picture turned clockwise by
// `turns` quarters comes from.
__device__ __forceinline__ Place source_of(int x, int y, int width, int height, int turns) {
    switch (turns) {
        case 1:
            return {y, height - 1 - x};
        case 2:
            return {width - 1 - x, height - 1 - y};
        case 3:
            return {width - 1 - y, x};
        default:
            return {x, y};
    }
}

template <typename Sample>
__device__ __forceinline__ const Sample* row_of(const u8* surface, long long pitch, int row) {
    return (const Sample*)(surface + row * pitch);
}

template <typename Sample>
__device__ __forceinline__ void write_cell(
    const u8* surface, u8* luma, u8* chroma, long long pitch, int luma_rows, int width, int height,
    int turns) {
    const int across = (width + 1) / 2, down = (height + 1) / 2;
    const bool lying = turns & 1;
    const int out_width = lying ? height : width, out_height = lying ? width : height;
    const int out_across = lying ? down : across, out_down = lying ? across : down;
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= out_across || y >= out_down) return;

    const Place from = source_of(x, y, across, down, turns);
    const Sample* pair = row_of<Sample>(surface, pitch, luma_rows + from.y) + 2 * from.x;
    u8* to = chroma + 2 * ((long long)y * out_across + x);
    to[0] = eight(pair[0]);
    to[1] = eight(pair[1]);

    for (int v = 2 * y; v < min(2 * y + 2, out_height); ++v) {
        for (int u = 2 * x; u < min(2 * x + 2, out_width); ++u) {
            const Place at = source_of(u, v, width, height, turns);
            luma[(long long)v * out_width + u] = eight(row_of<Sample>(surface, pitch, at.y)[at.x]);
        }
    }
}

// `width`, `height`: px of the picture as it lies in the surface; `turns`: quarters clockwise.
// Grid: covers the chroma samples of the frame.
extern "C" __global__ void upright_8(
    const unsigned char* __restrict__ surface, unsigned char* __restrict__ luma,
    unsigned char* __restrict__ chroma, long long pitch, int luma_rows, int width, int height,
    int turns) {
    write_cell<u8>(surface, luma, chroma, pitch, luma_rows, width, height, turns);
}

extern "C" __global__ void upright_16(
    const unsigned char* __restrict__ surface, unsigned char* __restrict__ luma,
    unsigned char* __restrict__ chroma, long long pitch, int luma_rows, int width, int height,
    int turns) {
    write_cell<u16>(surface, luma, chroma, pitch, luma_rows, width, height, turns);
}
