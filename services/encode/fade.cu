// One picture fading into another.

// out = (a * (256 - weight) + b * weight) / 256, to nearest; `weight` 0 to 256.
// Grid: covers `size` samples, one thread each.
extern "C" __global__ void mix(
    const unsigned char* __restrict__ a, const unsigned char* __restrict__ b,
    unsigned char* __restrict__ out, int weight, long long size) {
    const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < size) out[at] = (unsigned char)((a[at] * (256 - weight) + b[at] * weight + 128) >> 8);
}
