/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * alike.cuh - whether a call that is declared here can stand for one of a library's header.
 */
#ifndef DS_KERNELS_CUDA_ALIKE_CUH
#define DS_KERNELS_CUDA_ALIKE_CUH

#include <type_traits>

/* Number, size and kind (whole number, pointer) of parameters; handles point to something. */
template <class Ours, class Theirs> struct alike {
    static constexpr bool value = sizeof(Ours) == sizeof(Theirs) &&
                                  std::is_pointer<Ours>::value == std::is_pointer<Theirs>::value;
};
template <> struct alike<void, void> {
    static constexpr bool value = true;
};
template <class Ours, class Theirs> struct same_call;
template <class R, class... P, class S, class... Q> struct same_call<R (*)(P...), S (*)(Q...)> {
    static_assert(sizeof...(P) == sizeof...(Q), "the number of parameters");
    static_assert((alike<P, Q>::value && ...), "a parameter");
    static_assert(alike<R, S>::value, "the result");
    static constexpr bool value = true;
};

#endif
