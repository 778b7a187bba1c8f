/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_rope.c - rotary positions, as they are and stretched, against double.
 */
#include "tests/kernels/harness.h"

struct rope {
    struct ds_rope_args args;
    struct nums x;
};

static int run_rope(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct rope *c = ctx;
    struct ds_rope_args args = c->args;

    args.x = out[0];
    return ds_rope(&args, stream, err);
}

/* Of the cases that follow. */
static struct ds_rope_scale rope_scale;
static struct ds_numbers rope_each;
static size_t rope_turned;

/* The number of a pair in a head of `size` whose wave fits so many times into the first context. */
static double pair_of(double waves, const struct ds_rope_scale *scale, double size)
{
    return size * log((double)scale->original / (waves * 2.0 * acos(-1.0))) / (2.0 * log(10000.0));
}

/* By blending what is stretched into what is not, as transformers has it for YaRN. */
static double blended(const struct ds_rope_scale *scale, double pair, double size, double frequency)
{
    double low = floor(pair_of(scale->fast, scale, size)), high, ramp;

    high = ceil(pair_of(scale->slow, scale, size));
    low = low < 0.0 ? 0.0 : low;
    high = high > size - 1.0 ? size - 1.0 : high;
    ramp = (pair - low) / (low == high ? 0.001 : high - low);
    ramp = ramp < 0.0 ? 0.0 : ramp > 1.0 ? 1.0 : ramp;
    return ramp / (scale->factor / frequency) + (1.0 - ramp) * frequency;
}

/* By wavelengths, as transformers has it. */
static double stretched(const struct ds_rope_scale *scale, double pair, double size,
                        double frequency)
{
    double wave = 2.0 * acos(-1.0) / frequency, smooth;

    if (scale->kind == DS_ROPE_YARN)
        return blended(scale, pair, size, frequency);
    if (scale->kind == DS_ROPE_LONGROPE)
        return frequency / rope_each.item[(size_t)pair];
    if (scale->kind == DS_ROPE_PLAIN)
        return frequency;
    if (scale->kind == DS_ROPE_LINEAR || wave > (double)scale->original / scale->low)
        return frequency / scale->factor;
    if (wave < (double)scale->original / scale->high)
        return frequency;
    smooth = ((double)scale->original / wave - scale->low) / (scale->high - scale->low);
    return (1.0 - smooth) * frequency / scale->factor + smooth * frequency;
}

static void check_rope_from(size_t first, size_t batch, size_t seq, size_t heads, size_t size,
                            size_t more, enum ds_dtype act, bool inverse)
{
    struct rope c = {.args = {.batch = batch,
                              .seq = seq,
                              .first = first,
                              .heads = heads,
                              .head_size = size,
                              .turned = rope_turned,
                              .ld = heads * size + more,
                              .act = act,
                              .theta = 10000.0f,
                              .scale = rope_scale,
                              .each = &rope_each,
                              .inverse = inverse}};
    size_t width = rope_turned > 0 ? rope_turned : size;
    size_t n = batch * seq * c.args.ld, half = width / 2;
    double *y = calloc(n, sizeof(double));
    struct trial t = {.what = "rope",
                      .out = {{act, n, y, &c.x}},
                      .outs = 1,
                      .run = run_rope,
                      .ctx = &c,
                      .query = {.act = act, .seq = seq, .head_size = size}};

    c.x = nums_random(act, n, 1.0, 0.0);
    memcpy(y, c.x.d, n * sizeof(double));
    for (size_t i = 0; i < batch * seq * heads * half; i++) {
        size_t pair = i % half, head = i / half % heads, row = i / half / heads;
        size_t low = row * c.args.ld + head * size + pair;
        double position = (double)(first + row % seq);
        double plain = pow(10000.0, -2.0 * (double)pair / (double)width);
        double angle = position * stretched(&rope_scale, (double)pair, (double)width, plain);
        double gain = rope_scale.attention > 0.0 ? rope_scale.attention : 1.0;
        double s = gain * (inverse ? -sin(angle) : sin(angle)), cosine = gain * cos(angle);

        y[low] = c.x.d[low] * cosine - c.x.d[low + half] * s;
        y[low + half] = c.x.d[low + half] * cosine + c.x.d[low] * s;
    }
    try_all(&t);
    nums_free(&c.x);
    free(y);
}

static void check_rope(size_t batch, size_t seq, size_t heads, size_t size, size_t more,
                       enum ds_dtype act, bool inverse)
{
    check_rope_from(0, batch, seq, heads, size, more, act, inverse);
}

/* A part of a sequence has the bits that it has in the whole, wherever it is cut. */
Test(rope, of_a_part)
{
    enum { SEQ = 100, LD = 24, CUT = 37 };
    struct ds_device *device = open_cpu(NULL, 2, 1 << 16);
    float whole[SEQ * LD], part[SEQ * LD];
    struct ds_rope_args args = {
        .batch = 1, .heads = 2, .head_size = 12, .ld = LD, .theta = 10000.0f};

    cr_assert(device != NULL);
    for (size_t i = 0; i < SEQ * LD; i++)
        whole[i] = part[i] = (float)(i % 37) - 18.0f;
    args.seq = SEQ;
    args.x = whole;
    cr_assert(ds_rope(&args, ds_device_stream(device), NULL) == 0);
    args.seq = CUT;
    args.x = part;
    cr_assert(ds_rope(&args, ds_device_stream(device), NULL) == 0);
    args.first = CUT;
    args.seq = SEQ - CUT;
    args.x = part + CUT * LD;
    cr_assert(ds_rope(&args, ds_device_stream(device), NULL) == 0);
    cr_assert(memcmp(whole, part, sizeof(whole)) == 0);
    ds_device_close(device);
}

Test(rope, behind_other_rows)
{
    for (size_t type = 0; type < 3; type++) {
        check_rope_from(1, 1, 1, 3, 16, 32, act_types[type], false);
        check_rope_from(1000, 2, 17, 2, 20, 0, act_types[type], type == 0);
        check_rope_from(77, 1, 19, 3, 32, 1, act_types[type], false);
    }
}

/* Waves of all lengths: some that stay, some between, some that become longer. */
Test(rope, for_a_longer_context)
{
    static const struct ds_rope_scale scales[] = {
        {.kind = DS_ROPE_LINEAR, .factor = 4.0},
        {.kind = DS_ROPE_LLAMA3, .factor = 8.0, .low = 1.0, .high = 4.0, .original = 64},
        {.kind = DS_ROPE_LLAMA3, .factor = 32.0, .low = 1.0, .high = 4.0, .original = 8192},
        {.kind = DS_ROPE_YARN,
         .factor = 4.0,
         .slow = 1.0,
         .fast = 32.0,
         .original = 32768,
         .attention = 0.1 * 1.3862943611198906 + 1.0},
        {.kind = DS_ROPE_YARN,
         .factor = 40.0,
         .slow = 1.5,
         .fast = 3.0,
         .original = 64,
         .attention = 0.75},
        {.kind = DS_ROPE_YARN, /* a ramp of no pairs */
         .factor = 2.0,
         .slow = 1.0,
         .fast = 2.0,
         .original = 6,
         .attention = 1.0},
    };

    for (size_t i = 0; i < sizeof(scales) / sizeof(scales[0]); i++) {
        rope_scale = scales[i];
        for (size_t type = 0; type < 3; type++) {
            check_rope(2, 17, 2, 32, 0, act_types[type], i % 2 == 1);
            check_rope_from(300, 1, 40, 1, 18, 5, act_types[type], false);
        }
    }
    rope_scale = (struct ds_rope_scale){0};
}

/* A factor for each pair: half the pairs of a head, of what is turned of one, and the most. */
Test(rope, with_a_factor_for_each_frequency)
{
    static const size_t turned[] = {32, 18, 12, 2 * DS_MAX_NUMBERS};

    rope_scale = (struct ds_rope_scale){.kind = DS_ROPE_LONGROPE, .factor = 1.0, .attention = 1.2};
    for (size_t i = 0; i < DS_MAX_NUMBERS; i++)
        rope_each.item[i] = 1.0 + 0.37 * (double)i;
    for (size_t i = 0; i < sizeof(turned) / sizeof(turned[0]); i++) {
        rope_turned = turned[i];
        rope_each.count = turned[i] / 2;
        for (size_t type = 0; type < 3; type++) {
            check_rope(2, 17, 2, turned[i], 0, act_types[type], i % 2 == 1);
            check_rope_from(300, 1, 40, 1, turned[i] + 4, 5, act_types[type], false);
        }
    }
    rope_scale = (struct ds_rope_scale){0};
    rope_turned = 0;
}

/* Halves of what is turned that are whole words, and that are not; in rows that are, and are not. */
Test(rope, of_the_first_elements_of_a_head)
{
    static const struct ds_rope_scale yarn = {.kind = DS_ROPE_YARN,
                                              .factor = 4.0,
                                              .slow = 1.0,
                                              .fast = 8.0,
                                              .original = 64,
                                              .attention = 1.25};

    for (size_t type = 0; type < 3; type++) {
        rope_turned = 96;
        check_rope(2, 33, 3, 128, 128, act_types[type], type == 0);
        rope_turned = 16;
        check_rope_from(1000, 2, 19, 3, 24, 8, act_types[type], type == 1);
        check_rope(1, 19, 3, 20, 4, act_types[type], true);
        rope_turned = 6;
        check_rope(1, 40, 2, 8, 0, act_types[type], false);
        rope_turned = 2;
        check_rope(1, 5, 2, 3, 1, act_types[type], type == 2);
        rope_scale = yarn;
        rope_turned = 24;
        check_rope(1, 40, 2, 32, 0, act_types[type], false);
        rope_scale = (struct ds_rope_scale){0};
    }
    rope_turned = 0;
}

Test(rope, each_shape)
{
    for (size_t type = 0; type < 3; type++) {
        check_rope(2, 17, 3, 16, 32, act_types[type], false);
        check_rope(1, 100, 2, 20, 0, act_types[type], true);
        check_rope(1, 1, 1, 2, 5, act_types[type], false);
        check_rope(1, 4099, 1, 8, 0, act_types[type], type == 0);
        check_rope(2, 33, 2, 128, 64, act_types[type], false);
        check_rope(1, 9, 40, 64, 512, act_types[type], type == 1);
        check_rope(1, 19, 3, 32, 1, act_types[type], true); /* halves of words */
        check_rope_from(1000, 2, 23, 2, 16, 8, act_types[type], type == 2);
        check_rope_from(4093, 1, 9, 1, 20, 4, act_types[type], type == 0);
    }
}
