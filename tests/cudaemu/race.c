/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * race.c - run the planted kernel: as it should be, or with an argument without its barrier, which
 * ThreadSanitizer must notice.  Not a test by itself; make check-cuda-tsan runs it.
 */
#include "tests/cudaemu/planted.h"

int main(int argc, char **argv)
{
    float out[64];

    (void)argv;
    planted(out, 64, argc > 1 ? NO_BARRIER : NONE);
    return 0;
}
