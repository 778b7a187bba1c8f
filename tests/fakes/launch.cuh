/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * launch.cuh - the emulation of tests/cudaemu/ behind the fake runtime: kernels come after what
 * their stream holds, may touch memory of the device while they run, and can be refused.
 */
#ifndef DS_TESTS_FAKES_LAUNCH_CUH
#define DS_TESTS_FAKES_LAUNCH_CUH

#include <new>
#include <tuple>

#include "tests/cudaemu/cudaemu.cuh"
#include "tests/support/mapped.h"

/* fake.h declares these with the types of the C interface. */
extern "C" bool fake_kept(void *stream, void (*run)(void *arg), void *arg);
extern "C" int fake_launch(void *stream);
extern "C" void fake_launched();
extern "C" void fake_given(const char *kernel, const void *arg, size_t bytes);
extern "C" const char *fake_error_string(int error);

#define cudaGetErrorString fake_error_string

/* A launch with its arguments as they are now. */
template <class Kernel, class... A> struct fake_call {
    const char *name;
    Kernel kernel;
    dim3 grid, block;
    size_t shared;
    std::tuple<A...> args;

    static void one_thread(void *arg)
    {
        fake_call *call = static_cast<fake_call *>(arg);

        std::apply(call->kernel, call->args);
    }
    static void run(void *arg)
    {
        fake_call *call = static_cast<fake_call *>(arg);

        cudaemu_launch(call->grid, call->block, call->shared, call->name, one_thread, call);
    }
};

template <class Kernel, class... A>
static void fake_start(const char *name, Kernel kernel, dim3 grid, dim3 block, size_t shared,
                       void *stream, A... given)
{
    using call_of = fake_call<Kernel, A...>;
    void *memory = malloc(sizeof(call_of));
    call_of *call;
    cudaError_t error;

    if (memory == nullptr)
        abort();
    (fake_given(name, &given, MAPPED_CLEAN(&given)), ...);
    call = new (memory) call_of{name, kernel, grid, block, shared, std::tuple<A...>(given...)};
    if (fake_kept(stream, call_of::run, call))
        return;
    error = static_cast<cudaError_t>(fake_launch(stream));
    if (error == cudaSuccess) {
        call_of::run(call);
        fake_launched();
    } else {
        cudaemu_last = error; /* which a launch that is not refused leaves as it is */
    }
    free(memory);
}

#undef DS_LAUNCH
#define DS_LAUNCH(kernel_, grid, block, shared_bytes, stream, ...)                                 \
    fake_start(                                                                                    \
        #kernel_, [](auto... given) { kernel_(given...); }, (grid), (block), (shared_bytes),       \
        (stream), __VA_ARGS__)

#endif
