// IEEE 754 binary16 as CUDA's <cuda_fp16.h> has it: storage, and conversions from and to float.
#pragma once

#include <cstdint>
#include <cstring>

struct __half {
    std::uint16_t bits;
};

// To nearest, ties to even; beyond 65504 infinity.
static inline __half __float2half_rn(float value) {
    std::uint32_t f;
    std::memcpy(&f, &value, 4);
    const std::uint32_t sign = (f >> 16) & 0x8000u, magnitude = f & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7fffu)};
    if (magnitude >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};
    if (magnitude < 0x38800000u) {
        // Subnormal: adding 0.5 makes the float unit shift and round by 2^-24.
        float shifted;
        std::memcpy(&shifted, &magnitude, 4);
        shifted += 0.5f;
        std::memcpy(&f, &shifted, 4);
        return {static_cast<std::uint16_t>(sign | (f - 0x3f000000u))};
    }
    const std::uint32_t odd = (magnitude >> 13) & 1u;
    return {static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13))};
}

static inline __half __float2half(float value) { return __float2half_rn(value); }

static inline float __half2float(__half value) {
    const std::uint32_t sign = (value.bits & 0x8000u) << 16, rest = value.bits & 0x7fffu;
    std::uint32_t f;
    float result;
    if (rest >= 0x7c00u) {
        f = sign | 0x7f800000u | ((rest & 0x3ffu) << 13);
    } else if (rest >= 0x400u) {
        f = sign | ((rest << 13) + 0x38000000u);
    } else {
        result = static_cast<float>(rest) * 5.9604644775390625e-08f;  // 2^-24
        return sign ? -result : result;
    }
    std::memcpy(&result, &f, 4);
    return result;
}
