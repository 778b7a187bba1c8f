/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The emulation notices what it says it notices: planted defects.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>

#include "tests/cudaemu/emulated.h"
#include "tests/cudaemu/planted.h"

static int wrong_places(int defect, unsigned order)
{
    float *out = malloc(64 * sizeof(float));
    int wrong = 0;

    cr_assert(out != NULL);
    cudaemu_order(order);
    planted(out, 64, defect);
    for (int i = 0; i < 64; i++)
        wrong += !(out[i] == (float)(63 - i));
    free(out);
    return wrong;
}

Test(emulation, a_right_kernel_is_right_in_any_order)
{
    for (unsigned order = 0; order < 20; order++)
        cr_assert(wrong_places(NONE, order) == 0);
}

/* Once a process: the next time the numbers would still be there. */
Test(emulation, a_missing_barrier_is_wrong_forward)
{
    cr_assert(wrong_places(NO_BARRIER, 0) > 0);
}

Test(emulation, a_missing_barrier_is_wrong_backward)
{
    cr_assert(wrong_places(NO_BARRIER, 1) > 0);
}

Test(emulation, a_missing_barrier_is_wrong_by_chance)
{
    cr_assert(wrong_places(NO_BARRIER, 2) > 0);
}

Test(emulation, unset_shared_memory_is_nan)
{
    cr_assert(wrong_places(UNSET_SHARED, 0) == 64);
}

Test(emulation, barriers_in_divergent_code, .signal = SIGABRT)
{
    wrong_places(DIVERGENT, 0);
}

Test(emulation, a_deadlock, .signal = SIGABRT)
{
    wrong_places(DEADLOCK, 0);
}

Test(emulation, a_lane_outside_its_own_mask, .signal = SIGABRT)
{
    wrong_places(HALF_WARP, 0);
}

Test(emulation, an_impossible_shape_is_refused)
{
    cr_assert(planted_shape(1025) == -EIO);
    cr_assert(planted_shape(0) == -EIO);
}

/* Small whole numbers, so that sums are exact; how many of c's are wrong. */
static int wrong_products(int how)
{
    _Alignas(16) unsigned short a[16 * 16], b[16 * 8];
    float c[16 * 8];
    int wrong = 0;

    for (int i = 0; i < 16 * 16; i++)
        a[i] = ds_bf16_from_f32((float)(i * 7 % 23 - 11));
    for (int i = 0; i < 16 * 8; i++)
        b[i] = ds_bf16_from_f32((float)(i * 5 % 19 - 9));
    planted_product(a, b, c, how);
    for (int i = 0; i < 16 * 8; i++) {
        float want = 0.0f;

        for (int k = 0; k < 16; k++)
            want += ds_bf16_to_f32(a[i / 8 * 16 + k]) * ds_bf16_to_f32(b[k * 8 + i % 8]);
        wrong += !(c[i] == want);
    }
    return wrong;
}

Test(emulation, products_of_tiles_have_the_layout_of_the_isa)
{
    cr_assert(wrong_products(AS_MATRICES) == 0);
    cr_assert(wrong_products(BY_HAND) == 0);
}

Test(emulation, a_copy_that_nobody_waits_for_is_nan)
{
    cr_assert(wrong_products(NO_WAIT) == 16 * 8);
}

Test(emulation, a_misaligned_row_of_a_matrix, .signal = SIGABRT)
{
    wrong_products(MISALIGNED);
}

/* The same of a warpgroup. */
static int wrong_groups(int how)
{
    enum { N = 64 };
    _Alignas(16) static unsigned short a[N * N], b[N * N];
    static float c[N * N];
    int wrong = 0;

    for (int i = 0; i < N * N; i++) {
        a[i] = ds_bf16_from_f32((float)(i * 7 % 23 - 11));
        b[i] = ds_bf16_from_f32((float)(i * 5 % 19 - 9));
    }
    cudaemu_order(2);
    planted_group(a, b, c, how);
    for (int i = 0; i < N * N; i++) {
        float want = 0.0f;

        for (int k = 0; k < N; k++)
            want += ds_bf16_to_f32(a[i / N * N + k]) *
                    ds_bf16_to_f32(how == DOWN ? b[k * N + i % N] : b[i % N * N + k]);
        wrong += !(c[i] == want);
    }
    return wrong;
}

Test(emulation, products_of_warpgroups_have_the_layout_of_the_isa)
{
    cr_assert(wrong_groups(ACROSS) == 0);
    cr_assert(wrong_groups(DOWN) == 0);
    cr_assert(wrong_groups(NOT_PLACED) > 2000);
    cr_assert(wrong_groups(NOT_WAITED) == 64 * 64);
}

Test(emulation, a_product_of_a_warpgroup_that_is_not_begun, .signal = SIGABRT)
{
    wrong_groups(NOT_BEGUN);
}

Test(emulation, a_tile_that_is_not_published, .signal = SIGABRT)
{
    wrong_groups(NOT_PUBLISHED);
}

Test(emulation, a_tile_that_is_overwritten, .signal = SIGABRT)
{
    wrong_groups(OVERWRITTEN);
}

Test(emulation, a_product_of_a_part_of_a_warpgroup, .signal = SIGABRT)
{
    wrong_groups(NOT_BY_ALL);
}

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>

/* The report goes to stderr: in a file it would count as one of the build's own. */
static void past(int defect)
{
    __sanitizer_set_report_path("stderr");
    wrong_places(defect, 0);
}

Test(emulation, past_the_end_of_shared_memory, .exit_code = 1)
{
    past(PAST_SHARED);
}

Test(emulation, past_the_end_of_global_memory, .exit_code = 1)
{
    past(PAST_GLOBAL);
}
#endif
