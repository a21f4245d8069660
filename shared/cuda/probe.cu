// For `python -m shared.cuda.probe`: that kernels compile and run here.

extern "C" __global__ void add_one(unsigned char *bytes, unsigned long long count)
{
    unsigned long long at = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count)
        bytes[at] += 1;
}
