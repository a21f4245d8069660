// What the language CUDA C++ adds to C++17, as far as our kernels use it, for one CPU thread.
#pragma once

#include <cmath>
#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __constant__ static const
#define __launch_bounds__(...)

struct Dim3 {
    unsigned x, y, z;
};

// One set per host thread: two threads may launch at the same time.
static thread_local Dim3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize [[maybe_unused]] = 32;

template <typename Thread>
static void for_all_threads(const unsigned* dims, Thread thread) {
    gridDim = {dims[0], dims[1], dims[2]};
    blockDim = {dims[3], dims[4], dims[5]};
    for (unsigned bz = 0; bz < dims[2]; ++bz)
        for (unsigned by = 0; by < dims[1]; ++by)
            for (unsigned bx = 0; bx < dims[0]; ++bx) {
                blockIdx = {bx, by, bz};
                for (unsigned tz = 0; tz < dims[5]; ++tz)
                    for (unsigned ty = 0; ty < dims[4]; ++ty)
                        for (unsigned tx = 0; tx < dims[3]; ++tx) {
                            threadIdx = {tx, ty, tz};
                            thread();
                        }
            }
}

// Global functions of CUDA's math API (math_functions.h): no std:: needed there.
template <typename T>
static inline T min(T a, T b) {
    return b < a ? b : a;
}
template <typename T>
static inline T max(T a, T b) {
    return a < b ? b : a;
}
static inline float min(float a, float b) { return std::fmin(a, b); }
static inline float max(float a, float b) { return std::fmax(a, b); }
using std::fabs;
using std::fmaf;

template <typename T>
static inline T __ldg(const T* address) {
    return *address;
}
// Round to nearest even, as the default rounding mode of the host does.
static inline int __float2int_rn(float a) { return static_cast<int>(std::nearbyint(a)); }
static inline int __float2int_rd(float a) { return static_cast<int>(std::floor(a)); }
static inline float __saturatef(float a) { return std::fmin(std::fmax(a, 0.0f), 1.0f); }
