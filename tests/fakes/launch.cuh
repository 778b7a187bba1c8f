/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * launch.cuh - the emulation of tests/cudaemu/ behind the fake runtime: kernels come after what
 * their stream holds, may touch memory of the device while they run, and can be refused.
 */
#ifndef DS_TESTS_FAKES_LAUNCH_CUH
#define DS_TESTS_FAKES_LAUNCH_CUH

#include "tests/cudaemu/cudaemu.cuh"

/* fake.h declares these with the types of the C interface. */
extern "C" int fake_launch(void *stream);
extern "C" void fake_launched();
extern "C" const char *fake_error_string(int error);

#define cudaGetErrorString fake_error_string

#undef DS_LAUNCH
#define DS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                  \
    do {                                                                                           \
        auto cudaemu_run = [&] { kernel(__VA_ARGS__); };                                           \
        int fake_refused = fake_launch(stream);                                                    \
        if (fake_refused != 0) {                                                                   \
            cudaemu_last = fake_refused;                                                           \
            break;                                                                                 \
        }                                                                                          \
        cudaemu_launch((grid), (block), (shared_bytes), #kernel,                                   \
                       [](void *run) { (*static_cast<decltype(cudaemu_run) *>(run))(); },          \
                       &cudaemu_run);                                                              \
        fake_launched();                                                                           \
    } while (0)

#endif
