/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * alone.cc - launches without a runtime: what the kernels of tests/fakes/launch.cuh ask of one, for
 * programs that have none, so that they and the plug-in of the doubles share the kernels' objects.
 *
 * Each launch runs at once and is never refused; any memory is a kernel's to touch.
 */
#include "tests/fakes/launch.cuh"

#undef cudaGetErrorString

bool fake_kept(void *, void (*)(void *), void *)
{
    return false;
}

int fake_launch(void *)
{
    return cudaSuccess;
}

void fake_launched()
{
}

void fake_given(const char *, const void *, size_t)
{
}

const char *fake_error_string(int error)
{
    return cudaGetErrorString(error);
}
