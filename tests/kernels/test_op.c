/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_op.c - what operations and devices refuse, names, types, sizes of scratch.
 */
#include "tests/kernels/refusals.h"

TestSuite(op, .init = start, .fini = stop);

Test(op, matmul_arguments)
{
    static const struct ds_matmul_args good = {
        .m = 2, .n = 3, .k = 4, .a = f, .b = f + 100, .lda = 4, .ldb = 3, .d = f + 200, .ldd = 3};

    ACCEPTS(matmul, good);
    REFUSES(matmul, good, a.m = 0);
    REFUSES(matmul, good, a.n = 0);
    REFUSES(matmul, good, a.k = 0);
    REFUSES(matmul, good, a.a = NULL);
    REFUSES(matmul, good, a.b = NULL);
    REFUSES(matmul, good, a.d = NULL);
    REFUSES(matmul, good, a.lda = 3);
    REFUSES(matmul, good, a.ldb = 2);
    REFUSES(matmul, good, a.ldd = 2);
    REFUSES(matmul, good, (a.trans_a = true, a.lda = 1));
    REFUSES(matmul, good, (a.trans_b = true, a.ldb = 3));
    REFUSES(matmul, good, (a.c = f, a.ldc = 2));
    REFUSES(matmul, good, (a.c = a.d, a.ldc = 5));
    REFUSES(matmul, good, a.in_type = DS_I32);
    REFUSES(matmul, good, a.out_type = DS_BF16);
    REFUSES(matmul, good, a.ldd = SIZE_MAX / 2);
}

Test(op, matmul_epilogues)
{
    static const struct ds_matmul_args gelu = {.m = 2,
                                               .n = 3,
                                               .k = 4,
                                               .a = f,
                                               .b = f + 100,
                                               .lda = 4,
                                               .ldb = 3,
                                               .d = f + 200,
                                               .ldd = 3,
                                               .epilogue = DS_EPILOGUE_GELU,
                                               .gelu_x = f + 300};
    struct ds_matmul_args back = gelu, weight = gelu;

    back.epilogue = DS_EPILOGUE_GELU_BWD;
    weight.epilogue = DS_EPILOGUE_NONE;
    weight.gelu_x = NULL;
    weight.dbias = f + 300;
    ACCEPTS(matmul, gelu);
    ACCEPTS(matmul, back);
    ACCEPTS(matmul, weight);
    REFUSES(matmul, gelu, a.epilogue = (enum ds_epilogue)3);
    REFUSES(matmul, gelu, a.epilogue = DS_EPILOGUE_NONE);
    REFUSES(matmul, gelu, a.gelu_x = NULL);
    REFUSES(matmul, gelu, a.gelu_x = a.d);
    REFUSES(matmul, gelu, (a.c = f, a.ldc = 3));
    REFUSES(matmul, gelu, a.ldd = 4);
    REFUSES(matmul, back, a.gelu_x = NULL);
    REFUSES(matmul, back, a.bias = f);
    REFUSES(matmul, weight, (a.trans_b = true, a.ldb = 4));
    REFUSES(matmul, weight, a.ldb = 4);
    REFUSES(matmul, weight, a.in_type = a.out_type = DS_BF16);
    REFUSES(matmul, weight, (a.epilogue = DS_EPILOGUE_GELU, a.gelu_x = f + 350));
}

Test(op, experts_arguments)
{
    static uint32_t pairs[4][64], three = 3;
    static const struct ds_route_args good = {.batch = 1,
                                              .seq = 1,
                                              .experts = DS_MAX_EXPERTS,
                                              .each = DS_MAX_EXPERTS_EACH,
                                              .logits = f,
                                              .probs = f + 256,
                                              .chosen = pairs[0],
                                              .weight = f + 512,
                                              .load = f + 600};
    static const struct ds_rows_take_args take = {.rows = 2,
                                                  .each = 2,
                                                  .channels = 3,
                                                  .sorted = 4,
                                                  .source = pairs[3],
                                                  .count = &three,
                                                  .x = f,
                                                  .y = f + 100};
    static const struct ds_sort_pairs_args last = {.rows = 2,
                                                   .each = 2,
                                                   .experts = 4,
                                                   .first = 3,
                                                   .held = 1,
                                                   .sorted = 2,
                                                   .chosen = pairs[0],
                                                   .source = pairs[1],
                                                   .place = pairs[2],
                                                   .offset = (uint32_t *)ids};
    static const struct ds_rows_sum_args parts = {
        .rows = 1, .each = 64, .channels = 3, .x = f, .y = f + 200};

    ACCEPTS(route, good);
    ACCEPTS(rows_take, take);
    REFUSES(route, good, a.experts++);
    REFUSES(route, good, a.each++);
    REFUSES(route, good, (a.experts = 3, a.each = 4));
    REFUSES(route, good, (a.seq = (size_t)UINT32_MAX / DS_MAX_EXPERTS_EACH + 1));
    REFUSES(rows_take, take, a.each = DS_MAX_EXPERTS_EACH + 1);
    REFUSES(rows_take, take, a.rows = (size_t)UINT32_MAX / 2 + 1);
    ACCEPTS(sort_pairs, last);
    REFUSES(sort_pairs, last, a.first = 4);
    REFUSES(sort_pairs, last, a.held = 2);
    REFUSES(sort_pairs, last, (a.first = 0, a.held = 5));
    REFUSES(sort_pairs, last, a.each = 5);
    ACCEPTS(rows_sum, parts);
    REFUSES(rows_sum, parts, a.each = DS_MAX_RANKS + 1);
    REFUSES(rows_sum, parts, (a.place = pairs[0], a.sorted = 4));
}

Test(op, attention_arguments)
{
    static const struct ds_attention_fwd_args good = {.batch = 1,
                                                      .seq = 2,
                                                      .heads = 2,
                                                      .kv_heads = 1,
                                                      .head_size = 4,
                                                      .scale = 0.5f,
                                                      .qkv = f,
                                                      .out = f + 100,
                                                      .lse = f + 200};
    static const struct ds_attention_bwd_args back = {.batch = 1,
                                                      .seq = 2,
                                                      .heads = 2,
                                                      .kv_heads = 1,
                                                      .head_size = 4,
                                                      .scale = 0.5f,
                                                      .qkv = f,
                                                      .out = f + 100,
                                                      .dout = f + 300,
                                                      .lse = f + 200,
                                                      .dqkv = f + 400};

    REFUSES(attention_fwd, good, (a.heads = 3, a.kv_heads = 2));
    REFUSES(attention_fwd, good, a.head_size = 0);
    REFUSES(attention_fwd, good, a.lse = NULL);
    REFUSES(attention_fwd, good, a.act = DS_U8);
    REFUSES(attention_fwd, good, a.seq = SIZE_MAX / 2);
    REFUSES(attention_fwd, good, (a.drop.heads = 2, a.drop.head = 1)); /* of two heads the second */
    REFUSES(attention_fwd, good, a.drop.head = 1);
    REFUSES(attention_bwd, back, (a.drop.heads = 1, a.drop.head = 0));
    REFUSES(attention_bwd, back, a.dqkv = (void *)(uintptr_t)a.qkv);
    REFUSES(attention_bwd, back, a.dout = NULL);
    REFUSES(attention_bwd, back, a.kv_heads = 0);
}

Test(op, rows_that_a_cache_has_no_room_for)
{
    static const struct ds_attention_cached_args good = {.seq = 1,
                                                         .first = DS_CACHE_TILE - 1,
                                                         .room = DS_CACHE_TILE,
                                                         .heads = 2,
                                                         .kv_heads = 1,
                                                         .head_size = 4,
                                                         .scale = 0.5f,
                                                         .qkv = f,
                                                         .keys = f + 100,
                                                         .values = f + 1000,
                                                         .out = f + 2000};

    REFUSES(attention_cached, good, a.first = DS_CACHE_TILE);
    REFUSES(attention_cached, good, a.seq = 2);
    REFUSES(attention_cached, good, (a.first = 0, a.seq = DS_CACHE_TILE + 1));
    REFUSES(attention_cached, good, a.room = DS_CACHE_TILE + 1);
    REFUSES(attention_cached, good, a.room = SIZE_MAX / DS_CACHE_TILE * DS_CACHE_TILE);
    REFUSES(attention_cached, good, (a.heads = 3, a.kv_heads = 2));
}

Test(op, parts_of_columns_and_of_tables)
{
    static const struct ds_xent_row parts[2] = {{0.0f, 1.0f, 0.0f}, {0.0f, 1.0f, 0.0f}};
    static const struct ds_xent_args xent = {.rows = 1,
                                             .vocab = 3,
                                             .ld = 4,
                                             .logits = f,
                                             .targets = ids,
                                             .losses = f + 100,
                                             .dlogits = f + 200,
                                             .dld = 5,
                                             .parts = parts,
                                             .ranks = 2,
                                             .each = 4,
                                             .first_id = 4,
                                             .columns = 5};
    static const struct ds_embed_fwd_args embed = {.batch = 1,
                                                   .seq = 2,
                                                   .channels = 4,
                                                   .vocab = 5,
                                                   .first_id = 3,
                                                   .partial = true,
                                                   .ids = ids,
                                                   .ids_ld = 2,
                                                   .wte = f,
                                                   .out = f + 100};
    static const struct ds_embed_bwd_args table = {.batch = 1,
                                                   .seq = 2,
                                                   .channels = 4,
                                                   .vocab = 5,
                                                   .first_id = 3,
                                                   .partial = true,
                                                   .ids = ids,
                                                   .ids_ld = 2,
                                                   .dout = f,
                                                   .dwte = f + 100};

    ACCEPTS(xent, xent);
    ACCEPTS(embed_fwd, embed);
    ACCEPTS(embed_bwd, table);
    REFUSES(xent, xent, a.parts = NULL);
    REFUSES(xent, xent, (a.vocab = 4, a.each = 3, a.first_id = 3));
    REFUSES(xent, xent, a.first_id = 5);
    REFUSES(xent, xent, a.first_id = 8);
    REFUSES(xent, xent, a.columns = 6);
    REFUSES(xent, xent, a.columns = 2);
    REFUSES(xent, xent, a.ranks = 1);
    REFUSES(embed_fwd, embed, a.partial = false);
    REFUSES(embed_fwd, embed, a.first_id = (size_t)INT32_MAX + 1);
    REFUSES(embed_bwd, table, a.partial = false);
    REFUSES(embed_bwd, table, a.first_id = (size_t)INT32_MAX + 1);
}

Test(op, arguments_of_optimizers)
{
    static const struct ds_adamw_args adamw = {
        .n = 3, .p = f, .m = f + 10, .v = f + 20, .grad = f + 30, .bias1 = 0.1, .bias2 = 0.1};
    static const struct ds_sgd_args sgd = {.n = 3, .p = f, .grad = f + 30};
    static const struct ds_lion_args lion = {.n = 3, .p = f, .m = f + 10, .grad = f + 30};
    static const struct ds_adagrad_args adagrad = {.n = 3, .p = f, .v = f + 10, .grad = f + 30};

    ACCEPTS(adamw, adamw);
    REFUSES(adamw, adamw, a.bias1 = 0.0);
    REFUSES(adamw, adamw, a.grad = NULL);
    REFUSES(adamw, adamw, a.grad_type = DS_I32);
    REFUSES(adamw, adamw, (a.p_low = f, a.low_type = DS_F32));
    ACCEPTS(sgd, sgd);
    REFUSES(sgd, sgd, a.nesterov = true);
    REFUSES(sgd, sgd, a.p = NULL);
    ACCEPTS(lion, lion);
    REFUSES(lion, lion, a.m = NULL);
    ACCEPTS(adagrad, adagrad);
    REFUSES(adagrad, adagrad, a.v = NULL);
}

Test(op, dropout_arguments)
{
    static const struct ds_dropout_args dropout = {.n = 3, .rate = 0.5, .x = f, .y = f + 10};

    ACCEPTS(dropout, dropout);
    REFUSES(dropout, dropout, a.rate = 1.0);
    REFUSES(dropout, dropout, a.rate = -0.1);
    REFUSES(dropout, dropout, a.rate = (double)NAN);
    REFUSES(dropout, dropout, a.factor = (double)NAN);
    REFUSES(dropout, dropout, a.act = DS_I32);
    REFUSES(dropout, dropout, a.x = NULL);
}

Test(op, dropout_arguments_of_attention)
{
    static const struct ds_attention_fwd_args fwd = {.batch = 1,
                                                     .seq = 2,
                                                     .heads = 1,
                                                     .kv_heads = 1,
                                                     .head_size = 2,
                                                     .scale = 1.0f,
                                                     .drop = {.rate = 0.5},
                                                     .qkv = f,
                                                     .out = f + 20,
                                                     .lse = f + 30};
    static const struct ds_attention_bwd_args bwd = {.batch = 1,
                                                     .seq = 2,
                                                     .heads = 1,
                                                     .kv_heads = 1,
                                                     .head_size = 2,
                                                     .scale = 1.0f,
                                                     .drop = {.rate = 0.5},
                                                     .qkv = f,
                                                     .out = f + 20,
                                                     .dout = f + 20,
                                                     .dqkv = f + 40,
                                                     .lse = f + 30};

    REFUSES(attention_fwd, fwd, a.drop.rate = 1.0);
    REFUSES(attention_fwd, fwd, a.drop.rate = -0.1);
    REFUSES(attention_bwd, bwd, a.drop.rate = (double)NAN);
    REFUSES(attention_bwd, bwd, a.drop.rate = 1.0);
}

Test(op, arguments_of_lamb)
{
    static double sums[2];
    static struct ds_verdict verdict;
    static const struct ds_lamb_moments_args moments = {.n = 3,
                                                        .p = f,
                                                        .m = f + 10,
                                                        .v = f + 20,
                                                        .grad = f + 30,
                                                        .eps = 1e-6,
                                                        .bias1 = 0.1,
                                                        .bias2 = 0.1,
                                                        .p_sumsq = &sums[0],
                                                        .u_sumsq = &sums[1]};
    static const struct ds_lamb_args lamb = {.n = 3,
                                             .p = f,
                                             .m = f + 10,
                                             .v = f + 20,
                                             .eps = 1e-6,
                                             .bias1 = 0.1,
                                             .bias2 = 0.1,
                                             .p_sumsq = &sums[0],
                                             .u_sumsq = &sums[1]};

    REFUSES(lamb_moments, moments, a.u_sumsq = NULL);
    REFUSES(lamb_moments, moments, a.m = NULL);
    REFUSES(lamb_moments, moments, a.eps = 0.0);
    REFUSES(lamb_moments, moments, a.bias2 = 0.0);
    ACCEPTS(lamb, lamb);
    REFUSES(lamb, lamb, a.v = NULL);
    REFUSES(lamb, lamb, a.p_sumsq = NULL);
    REFUSES(lamb, lamb, a.u_sumsq = NULL);
    REFUSES(lamb, lamb, a.verdict = &verdict);
    REFUSES(lamb, lamb, a.m = NULL);
    REFUSES(lamb, lamb, a.eps = 0.0);
    REFUSES(lamb, lamb, a.bias1 = 0.0);
    REFUSES(lamb, lamb, (a.p_low = f, a.low_type = DS_F32));
}

Test(op, muon_arguments)
{
    static const struct ds_muon_moments_args moments = {
        .n = 3, .m = f, .u = f + 10, .grad_type = DS_F32, .grad = f + 20};
    static const struct ds_muon_args muon = {.n = 3, .p = f, .x = f + 10};
    static const struct ds_affine_args affine = {.rows = 2, .cols = 3, .x = f, .y = f + 10};

    ACCEPTS(muon_moments, moments);
    REFUSES(muon_moments, moments, a.m = NULL);
    REFUSES(muon_moments, moments, a.u = NULL);
    REFUSES(muon_moments, moments, a.grad = NULL);
    REFUSES(muon_moments, moments, a.grad_type = DS_I32);
    ACCEPTS(muon, muon);
    REFUSES(muon, muon, a.p = NULL);
    REFUSES(muon, muon, a.x = NULL);
    REFUSES(muon, muon, (a.p_low = f, a.low_type = DS_F32));
    ACCEPTS(affine, affine);
    ACCEPTS(affine, (struct ds_affine_args){0});
    REFUSES(affine, affine, a.x = NULL);
    REFUSES(affine, affine, a.y = NULL);
}

Test(op, arguments_of_sums)
{
    static double total;
    static const struct ds_sum_args sum = {.n = 3, .x = f, .sum = &total};
    static const struct ds_add_args add = {.n = 3, .x = f, .y = f + 10};

    ACCEPTS(sum, sum);
    REFUSES(sum, sum, a.x = NULL);
    REFUSES(sum, sum, a.sum = NULL);
    ACCEPTS(add, add);
    REFUSES(add, add, a.y = NULL);
}

Test(op, nothing_to_do)
{
    ACCEPTS(adamw, ((struct ds_adamw_args){.bias1 = 1.0, .bias2 = 1.0}));
    ACCEPTS(gelu_fwd, (struct ds_gelu_fwd_args){0});
    ACCEPTS(gelu_bwd, (struct ds_gelu_bwd_args){0});
    REFUSES(gelu_fwd, (struct ds_gelu_fwd_args){0}, a.kind = (enum ds_gelu)2);
    REFUSES(gelu_bwd, (struct ds_gelu_bwd_args){0}, a.kind = (enum ds_gelu)2);
    ACCEPTS(cast, (struct ds_cast_args){0});
}

Test(op, scratch_that_is_too_small)
{
    static float dy[64 * 4096];
    struct ds_bias_bwd_args args = {.rows = 64, .n = 4096, .dy = dy, .dbias = f};
    struct ds_device *small = open_cpu(NULL, 1, 0);
    struct ds_error err = {0};

    cr_assert(small != NULL);
    cr_assert(ds_bias_bwd(&args, ds_device_stream(small), &err) == -ENOMEM);
    cr_assert(strstr(err.text, "scratch") != NULL, "%s", err.text);
    ds_device_close(small);
}

Test(op, a_backend_without_the_operation)
{
    static const struct ds_kernels none = {.name = "none"};
    struct {
        const struct ds_kernels *kernels;
    } empty = {&none};
    struct ds_cast_args args = {0};
    struct ds_error err = {0};

    cr_assert(ds_cast(&args, (struct ds_stream *)(void *)&empty, &err) == -ENOTSUP);
    cr_assert_str_eq(err.text, "device 'none' lacks operation 'cast'");
}

Test(op, names)
{
    cr_assert_str_eq(ds_op_name(DS_OP_MATMUL), "matmul");
    cr_assert_str_eq(ds_op_name(DS_OP_CAST), "cast");
    cr_assert_str_eq(ds_op_name(DS_OP_COUNT), "?");
    for (int i = 0; i < DS_DTYPE_COUNT; i++) {
        cr_assert(ds_dtype_parse(ds_dtype_name((enum ds_dtype)i)) == i);
        cr_assert(ds_dtype_bytes((enum ds_dtype)i) > 0);
    }
    cr_assert(ds_dtype_parse("f32") == -1);
    cr_assert(ds_dtype_bytes(DS_DTYPE_COUNT) == 0);
    cr_assert_str_eq(ds_dtype_name(DS_DTYPE_COUNT), "?");
}

Test(device, what_it_refuses)
{
    static const struct {
        const char *name;
        unsigned threads;
        int code;
    } wrong[] = {{"tpu", 1, -ENOTSUP}, {"cpu", 0, -EINVAL}, {"cpu", 100000, -EINVAL}};

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct ds_device *none = NULL;
        struct ds_device_args args = {.name = wrong[i].name, .threads = wrong[i].threads};
        struct ds_error err = {0};

        cr_assert(ds_device_open(&none, &args, &err) == wrong[i].code);
        cr_assert(none == NULL && err.text[0] != '\0');
    }
    cr_assert(open_cpu("v9", 1, 0) == NULL);
}

Test(device, memory_is_zero_and_aligned)
{
    static const size_t sizes[] = {1, 4097, 10 << 20};
    struct ds_device *cpu = open_cpu(NULL, 1, 0);

    cr_assert(strncmp(ds_device_describe(cpu), "cpu, ", 5) == 0);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        void *memory = NULL;

        cr_assert(ds_device_alloc(cpu, sizes[i], &memory, NULL) == 0);
        cr_assert((uintptr_t)memory % 4096 == 0);
        for (size_t j = 0; j < sizes[i]; j += 511)
            cr_assert(((char *)memory)[j] == 0);
        ds_device_free(cpu, memory, sizes[i]);
    }
    cr_assert(ds_device_alloc(cpu, SIZE_MAX, &(void *){NULL}, NULL) == -EINVAL);
    cr_assert(ds_device_alloc(cpu, 0, &(void *){NULL}, NULL) == -EINVAL);
    cr_assert(ds_device_alloc(cpu, (size_t)1 << 60, &(void *){NULL}, NULL) == -ENOMEM);
    ds_device_close(cpu);
    ds_device_close(NULL);
}
