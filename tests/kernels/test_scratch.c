/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_scratch - what a device apart has for operations is what the largest of them takes there.
 */
#include <criterion/criterion.h>

#include "base/limits.h"
#include "kernels/cuda/need.h"
#include "kernels/scratch.h"

enum { MIB = 1 << 20 };

/* A model of the usual size, of which one thing is not. */
static struct ds_scratch_query usual(void)
{
    return (struct ds_scratch_query){.threads = 1,
                                     .act = DS_BF16,
                                     .rows = 4096,
                                     .seq = 1024,
                                     .hidden = 768,
                                     .heads = 12,
                                     .kv_heads = 12,
                                     .head_size = 64,
                                     .ffn_in = 3072,
                                     .vocab = 50257};
}

Test(scratch, a_device_has_room_for_its_largest_operation)
{
    struct ds_scratch_query q = usual();

    cr_assert_eq(ds_scratch_device_bytes(&q), 64 * MIB);
    q.ffn_in = DS_MAX_FFN; /* the gradient of its bias: 128 rows of it */
    cr_assert_eq(ds_scratch_device_bytes(&q), 512 * MIB);
    q = usual();
    q.hidden = 1 << 17; /* both gradients of a norm */
    q.rows = 1024;
    cr_assert_eq(ds_scratch_device_bytes(&q), 128 * MIB);
    q = usual();
    q.rows = 1024;
    q.heads = q.kv_heads = 1;
    q.head_size = 1 << 15; /* those of both norms of heads: 512 rows of each */
    cr_assert_eq(ds_scratch_device_bytes(&q), 128 * MIB);
    q = usual();
    q.rows = q.hidden = 1 << 14; /* the order of the tokens, and two sums of every 32 of them */
    cr_assert_eq(ds_scratch_device_bytes(&q), ds__need_embed(1 << 14, 1 << 14));
    cr_assert_eq(ds__need_embed(1 << 14, 1 << 14), 64 * MIB + (16 << 14) + 17 * 2048);
    q = usual();
    q.rows = (size_t)1 << 19; /* a number of each query of each head */
    q.heads = q.kv_heads = 64;
    cr_assert_eq(ds_scratch_device_bytes(&q), 128 * MIB);
    q = usual();
    q.rows =
        (size_t)1 << 20; /* two numbers of each pair, and what comes how often in 1024 of them */
    q.hidden = 64;
    q.pairs = 16 * q.rows;
    cr_assert_eq(ds_scratch_device_bytes(&q), 160 * MIB + 2048);
}

Test(scratch, attention_by_a_library_works_in_more_of_it)
{
    struct ds_scratch_query q = usual();

    q.library = true;
    cr_assert_eq(ds_scratch_device_bytes(&q),
                 4 * q.kv_heads * (ds__need_sdpa(1024, 64, 1) + DS_NEED_SDPA_REST));
    q.rows *= 64; /* not all at once */
    cr_assert_eq(ds_scratch_device_bytes(&q), DS_DEVICE_ATTENTION_BYTES);
    q.act = DS_F32; /* which it has not */
    cr_assert_eq(ds_scratch_device_bytes(&q), 64 * MIB);
}

/* One head needs more than there ever is: our own kernels do it, and need room, too. */
Test(scratch, what_no_library_has_room_for_is_done_in_ours)
{
    struct ds_scratch_query q = usual();

    q.library = true;
    q.rows = q.seq = (size_t)1 << 19;
    q.heads = q.kv_heads = 64;
    cr_assert_eq(ds_scratch_device_bytes(&q), 128 * MIB);
}
