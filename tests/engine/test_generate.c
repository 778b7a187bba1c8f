/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_generate.c - a session's logits: those of the reference cases against their float64 losses,
 * and of any way of reading a sequence against those of reading it at once.
 */
#include "base/rng.h"
#include "runtime/ckpt/ckpt.h"
#include "runtime/generate/session.h"
#include "runtime/model/model.h"
#include "tests/engine/apart.h"
#include "tests/engine/fixture.h"
#include "tests/tempdir.h"

enum { LONG = 700, VOCAB = 61 }; /* more than two chunks, than two pieces of a cache */

static const char *device_name;
static unsigned fails_at; /* the call of a device apart that fails, 0: none */

static void begin(void)
{
    tempdir_make();
    device_name = "cpu"; /* where tests share a process, another has left its own */
    fails_at = 0;
}

static struct ds_session *open_session(const char *ckpt, enum ds_dtype type, unsigned threads,
                                       uint64_t rows)
{
    const struct ds_session_args args = {
        .device = device_name, .ckpt = ckpt, .type = type, .threads = threads, .rows = rows};
    struct ds_session *session = NULL;
    struct ds_error err = {0};

    cr_assert_eq(ds_session_open(&session, &args, &err), 0, "%s", err.text);
    return session;
}

static void read_on(struct ds_session *session, const int32_t *ids, size_t count)
{
    struct ds_error err = {0};

    cr_assert_eq(ds_session_read(session, ids, count, &err), 0, "%s", err.text);
}

static const float *logits_of(struct ds_session *session)
{
    const float *logits = NULL;

    cr_assert_eq(ds_session_logits(session, &logits, NULL), 0);
    return logits;
}

TestSuite(generate, .init = begin, .fini = tempdir_remove);

/* --- the reference cases ----------------------------------------------------------------------- */

/* -log of the weight of `id`. */
static double loss_of(const float *logits, size_t vocab, int32_t id)
{
    double max = (double)-INFINITY, sum = 0.0;

    for (size_t i = 0; i < vocab; i++)
        max = fmax(max, (double)logits[i]);
    for (size_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - max);
    return max + log(sum) - (double)logits[id];
}

/* Mean loss of the first step's samples, each read `piece` ids at a time as far as its last one. */
static double mean_loss(struct ds_session *session, const struct test_case *of, size_t piece)
{
    enum { SAMPLES = 8 }; /* 2 micro-batches of 4 */
    char path[128];
    struct test_tensors file;
    const int32_t *tokens;
    double sum = 0.0;
    size_t seen = 0;

    (void)snprintf(path, sizeof(path), "%s/tokens.safetensors", of->folder);
    test_tensors_open(&file, path);
    tokens = (const void *)((const char *)file.map.data + file.table.data_at);
    for (size_t s = 0; s < SAMPLES; s++, tokens += of->sequence + 1) {
        ds_session_rewind(session, 0);
        for (size_t t = 0; t < of->sequence; t += piece) {
            size_t count = of->sequence - t < piece ? of->sequence - t : piece;

            if (of->documents && t > 0 && tokens[t - 1] == 5) /* nothing before is seen */
                ds_session_rewind(session, 0);
            read_on(session, tokens + t, count);
            sum += loss_of(logits_of(session), of->shape.vocab, tokens[t + count]);
            seen++;
        }
    }
    test_tensors_close(&file);
    return sum / (double)seen;
}

static double expected_loss(const struct test_case *of)
{
    char path[128];
    json_t *trace;
    double loss;

    (void)snprintf(path, sizeof(path), "%s/expected.json", of->folder);
    cr_assert_eq(ds_json_load(path, 1 << 20, &trace, NULL), 0);
    loss = json_real_value(json_object_get(json_array_get(trace, 0), "loss"));
    json_decref(trace);
    return loss;
}

Test(generate, losses_of_the_reference_cases)
{
    static const struct {
        enum ds_dtype type;
        double tolerance;
    } types[] = {{DS_F32, 1e-6}, {DS_BF16, 1e-2}, {DS_F16, 2e-3}};

    for (unsigned i = 0; i < TEST_CASES; i++) {
        const struct test_case of = test_reference(i);
        const char *ckpt = tempdir_path(of.folder + sizeof("tests/reference"));
        double want = expected_loss(&of);
        struct ds_error err = {0};

        cr_assert_eq(ds_hf_import(of.folder, ckpt, &err), 0, "%s", err.text);
        for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
            struct ds_session *session = open_session(ckpt, types[t].type, 1, of.sequence);
            double got = mean_loss(session, &of, 1);

            cr_assert(fabs(got - want) < types[t].tolerance * want, "%s %s: %.9g, not %.9g",
                      of.folder, ds_dtype_name(types[t].type), got, want);
            ds_session_close(session);
        }
    }
}

/* Positions are those of what may be read in all, not of what is. */
Test(generate, room_for_a_longer_context_has_its_positions)
{
    const struct test_case of = test_reference(TEST_LONGROPE);
    const char *ckpt = tempdir_path("longrope");
    const uint64_t first = of.shape.rope_scale.original;
    static const int32_t ids[] = {3, 1, 4};
    double loss[3];

    cr_assert_eq(ds_hf_import(of.folder, ckpt, NULL), 0);
    for (uint64_t more = 0; more < 3; more++) {
        struct ds_session *session = open_session(ckpt, DS_F32, 1, first - 1 + more);

        read_on(session, ids, 3);
        loss[more] = loss_of(logits_of(session), of.shape.vocab, 5);
        ds_session_close(session);
    }
    cr_expect_eq(loss[0], loss[1]);
    cr_expect(fabs(loss[1] - loss[2]) > 1e-4, "%.9g and %.9g", loss[1], loss[2]);
}

/* --- reading in pieces ------------------------------------------------------------------------- */

/* A checkpoint of small random weights; returns its folder. */
static const char *save_model(const char *name, const struct ds_model_shape *shape)
{
    size_t count = ds_model_param_count(shape);
    struct ds_ckpt_tensor *tensor = calloc(count, sizeof(*tensor));
    struct ds_ckpt_save_args args = {.run_dir = tempdir_path(name),
                                     .state = {.step = 0, .shape = *shape},
                                     .weights = tensor,
                                     .n_weights = count,
                                     .world = 1};
    struct ds_error err = {0};
    char ckpt[64];

    cr_assert_not_null(tensor);
    for (size_t i = 0; i < count; i++) {
        struct ds_param param;
        float *data;

        ds_model_param(shape, i, &param);
        data = malloc(param.elems * sizeof(*data));
        ds_rng_fill_normal(data, param.elems, 7, i, 0, param.ndim == 1 ? 0.3f : 0.1f);
        for (uint64_t j = 0; param.init == DS_INIT_ONE && j < param.elems; j++)
            data[j] += 1.0f;
        tensor[i] = (struct ds_ckpt_tensor){.dtype = DS_F32,
                                            .ndim = param.ndim,
                                            .shape = {param.shape[0], param.shape[1]},
                                            .count = param.elems,
                                            .data = data};
        memcpy(tensor[i].name, param.name, sizeof(param.name));
    }
    cr_assert_eq(ds_ckpt_save(&args, &err), 0, "%s", err.text);
    for (size_t i = 0; i < count; i++)
        free(tensor[i].data);
    free(tensor);
    (void)snprintf(ckpt, sizeof(ckpt), "%s/checkpoints/step-00000000", name);
    return tempdir_path(ckpt);
}

static void make_ids(int32_t *ids, size_t count, uint64_t stream)
{
    for (size_t i = 0; i < count; i++)
        ids[i] = (int32_t)(ds_rng_u64(3, stream, i) % VOCAB);
}

/* Logits after ids[count], read `piece` at a time by so many threads. */
static void logits_after(const char *ckpt, enum ds_dtype type, unsigned threads, size_t piece,
                         const int32_t *ids, size_t count, float *out)
{
    struct ds_session *session = open_session(ckpt, type, threads, LONG);

    for (size_t at = 0; at < count; at += piece)
        read_on(session, ids + at, count - at < piece ? count - at : piece);
    cr_assert_eq(ds_session_rows(session), count);
    memcpy(out, logits_of(session), VOCAB * sizeof(*out));
    ds_session_close(session);
}

/* Families, groups of query heads, tied and not, of one key/value head. */
static struct ds_model_shape long_shape(unsigned i)
{
    struct ds_model_shape shapes[] = {
        test_gpt2(2, 48, 3, VOCAB, LONG),         test_gpt2(1, 40, 2, VOCAB, LONG),
        test_llama(2, 64, 4, 2, 96, VOCAB, LONG), test_llama(2, 40, 4, 1, 56, VOCAB, LONG),
        test_llama(1, 64, 2, 2, 96, VOCAB, LONG),
    };

    shapes[1].tie_embeddings = false;
    shapes[3].tie_embeddings = true;
    return shapes[i];
}
enum { LONG_SHAPES = 5 };

Test(generate, any_way_of_reading_gives_the_same_logits)
{
    static const size_t counts[] = {1, 64, 65, 300, LONG}, pieces[] = {1, 7, 256, 257};
    int32_t ids[LONG];
    float want[VOCAB], got[VOCAB];

    make_ids(ids, LONG, 0);
    for (unsigned i = 0; i < LONG_SHAPES; i++) {
        const struct ds_model_shape shape = long_shape(i);
        char name[16];
        const char *ckpt;

        (void)snprintf(name, sizeof(name), "long-%u", i);
        ckpt = save_model(name, &shape);
        for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
            logits_after(ckpt, DS_F32, 1, LONG, ids, counts[c], want);
            for (size_t p = 0; p < sizeof(pieces) / sizeof(pieces[0]); p++) {
                logits_after(ckpt, DS_F32, 1, pieces[p], ids, counts[c], got);
                cr_assert(test_l2(got, want, VOCAB) < 2e-6, "%u: %zu ids by %zu: %g", i, counts[c],
                          pieces[p], test_l2(got, want, VOCAB));
            }
            logits_after(ckpt, DS_BF16, 1, 5, ids, counts[c], got);
            cr_assert(test_l2(got, want, VOCAB) < 3e-2, "%u: bf16, %zu ids: %g", i, counts[c],
                      test_l2(got, want, VOCAB));
        }
    }
}

Test(generate, threads_do_not_show_one_by_one)
{
    int32_t ids[LONG];
    float one[VOCAB], three[VOCAB];

    make_ids(ids, LONG, 1);
    for (unsigned i = 0; i < LONG_SHAPES; i += 2) {
        const struct ds_model_shape shape = long_shape(i);
        char name[16];
        const char *ckpt;

        (void)snprintf(name, sizeof(name), "threads-%u", i);
        ckpt = save_model(name, &shape);
        logits_after(ckpt, DS_F32, 1, 1, ids, 300, one);
        logits_after(ckpt, DS_F32, 3, 1, ids, 300, three);
        cr_assert_eq(memcmp(one, three, sizeof(one)), 0);
    }
}

/* Samples share the prompt: what another has read behind it is forgotten, to the last bit. */
Test(generate, rewound_it_is_as_if_never_read)
{
    const struct ds_model_shape shape = long_shape(2);
    struct ds_session *session = open_session(save_model("rewound", &shape), DS_F32, 1, LONG);
    int32_t prompt[100], first[40], second[40];
    float want[VOCAB], got[VOCAB];

    make_ids(prompt, 100, 2);
    make_ids(first, 40, 3);
    make_ids(second, 40, 4);
    read_on(session, prompt, 100);
    read_on(session, second, 40);
    memcpy(want, logits_of(session), sizeof(want));
    ds_session_rewind(session, 100);
    read_on(session, first, 40);
    cr_assert(memcmp(want, logits_of(session), sizeof(want)) != 0);
    ds_session_rewind(session, 100);
    ds_session_rewind(session, 200); /* nothing is behind */
    cr_assert_eq(ds_session_rows(session), 100);
    read_on(session, second, 40);
    memcpy(got, logits_of(session), sizeof(got));
    cr_assert_eq(memcmp(want, got, sizeof(got)), 0);
    ds_session_close(session);
}

/* Three sequences of other lengths, one of them another's beginning, one id of each at a time; in
 * the middle one leaves, and one is read on alone. */
static void check_beside(const struct ds_model_shape *shape, const char *ckpt)
{
    enum { BESIDE = 3, STEPS = 9 };
    static const size_t begins[BESIDE] = {70, 3, 40}; /* the last one is the first one's */
    const struct ds_session_args args = {.device = device_name,
                                         .ckpt = ckpt,
                                         .type = DS_F32,
                                         .threads = 2,
                                         .rows = 100,
                                         .sequences = BESIDE};
    struct ds_session *session = NULL;
    int32_t ids[BESIDE][100];
    float want[VOCAB];

    cr_assert_eq(ds_session_open(&session, &args, NULL), 0);
    for (unsigned s = 0; s < BESIDE; s++)
        make_ids(ids[s], 100, 10 + s);
    memcpy(ids[2], ids[0], begins[2] * sizeof(ids[0][0]));
    for (unsigned s = 0; s < 2; s++) {
        ds_session_turn(session, s);
        read_on(session, ids[s], begins[s]);
    }
    ds_session_turn(session, 2);
    cr_assert_eq(ds_session_copy(session, 0, begins[2], NULL), 0);
    cr_assert_eq(ds_session_rows(session), begins[2]);
    for (size_t step = 0; step < STEPS; step++) {
        const unsigned first = step < 5 ? 0 : 1; /* then the first one has left */
        struct ds_session_next next[BESIDE];
        const float *got;

        for (unsigned s = first; s < BESIDE; s++)
            next[s - first] = (struct ds_session_next){s, ids[s][begins[s] + step]};
        cr_assert_eq(ds_session_step(session, next, BESIDE - first, NULL), 0);
        got = logits_of(session);
        for (unsigned s = first; s < BESIDE; s++) {
            logits_after(ckpt, DS_F32, 1, LONG, ids[s], begins[s] + step + 1, want);
            cr_assert(test_l2(got + (s - first) * VOCAB, want, VOCAB) < 2e-6,
                      "%s: %u, step %zu: %g", ds_arch_name(shape->arch), s, step,
                      test_l2(got + (s - first) * VOCAB, want, VOCAB));
        }
    }
    ds_session_turn(session, 0);
    read_on(session, ids[0] + begins[0] + 5, 2);
    logits_after(ckpt, DS_F32, 1, LONG, ids[0], begins[0] + 7, want);
    cr_assert(test_l2(logits_of(session), want, VOCAB) < 2e-6);
    ds_session_close(session);
}

Test(generate, sequences_beside_each_other)
{
    for (unsigned i = 0; i < LONG_SHAPES; i += 2) {
        const struct ds_model_shape shape = long_shape(i);
        char name[16];

        (void)snprintf(name, sizeof(name), "beside-%u", i);
        check_beside(&shape, save_model(name, &shape));
    }
}

/* --- what is refused --------------------------------------------------------------------------- */

Test(generate, ids_and_rows_that_there_are_not)
{
    const struct ds_model_shape shape = long_shape(0);
    struct ds_session *session = open_session(save_model("wrong", &shape), DS_F32, 1, 10);
    int32_t ids[11] = {1, 2, 3};
    struct ds_error err = {0};

    cr_assert_eq(ds_session_room(session), 10);
    cr_assert_eq(ds_session_read(session, ids, 11, &err), -ENOSPC);
    ids[2] = VOCAB;
    cr_assert_eq(ds_session_read(session, ids, 3, &err), -EDOM);
    cr_assert(strstr(err.text, "token 61 is not of the model's vocabulary of 61") != NULL, "%s",
              err.text);
    ids[2] = -1;
    cr_assert_eq(ds_session_read(session, ids, 3, &err), -EDOM);
    cr_assert_eq(ds_session_rows(session), 0);
    ids[2] = 0;
    read_on(session, ids, 10);
    cr_assert_eq(ds_session_read(session, ids, 1, &err), -ENOSPC);
    cr_assert_eq(ds_session_step(session, &(struct ds_session_next){0, 1}, 1, &err), -ENOSPC);
    ds_session_close(session);
    session = open_session(tempdir_path("wrong/checkpoints/step-00000000"), DS_F32, 1, UINT64_MAX);
    cr_assert_eq(ds_session_room(session), LONG);
    ds_session_close(session);
}

Test(generate, checkpoints_that_cannot_be_used)
{
    const struct ds_model_shape shape = long_shape(0);
    struct ds_session_args args = {
        .device = "cpu", .ckpt = tempdir_path("none"), .threads = 1, .rows = 8};
    struct ds_session *session = NULL;
    struct ds_error err = {0};
    char weights[DS_MAX_PATH];
    FILE *file;

    cr_assert_eq(ds_session_open(&session, &args, &err), -ENOENT);
    args.ckpt = save_model("damaged", &shape);
    (void)snprintf(weights, sizeof(weights), "%s/weights-00001-of-00001.safetensors", args.ckpt);
    file = fopen(weights, "r+b");
    cr_assert_not_null(file);
    cr_assert_eq(fseek(file, -9, SEEK_END), 0);
    cr_assert_eq(fputc(0x55, file), 0x55);
    cr_assert_eq(fclose(file), 0);
    for (unsigned type = DS_F32; type <= DS_F16; type++) {
        args.type = (enum ds_dtype)type;
        cr_assert_eq(ds_session_open(&session, &args, &err), -EBADMSG, "%s", err.text);
        cr_assert(strstr(err.text, "weights-00001-of-00001.safetensors") != NULL, "%s", err.text);
    }
    cr_assert_null(session);
}

/* --- a device with memory of its own ----------------------------------------------------------- */

static int open_apart(struct ds_device **device, const struct ds_device_args *args,
                      struct ds_error *err)
{
    int rc = ds_backend_cpu.open(device, args, err);

    if (rc == 0)
        apart_begin(*device, true, fails_at > 0 ? APART_ONCE : APART_NEVER, fails_at);
    return rc;
}

static const struct ds_backend apart_backend = {.name = "apart", .open = open_apart};

Test(generate, on_a_device_apart_the_bits_are_the_same)
{
    int32_t ids[300];
    float want[VOCAB], got[VOCAB];

    make_ids(ids, 300, 5);
    ds_device_add(&apart_backend);
    for (unsigned i = 0; i < LONG_SHAPES; i++) {
        const struct ds_model_shape shape = long_shape(i);
        char name[16];
        const char *ckpt;

        (void)snprintf(name, sizeof(name), "apart-%u", i);
        ckpt = save_model(name, &shape);
        for (unsigned type = DS_F32; type <= DS_F16; type++) {
            device_name = "cpu";
            logits_after(ckpt, (enum ds_dtype)type, 2, 270, ids, 300, want);
            device_name = "apart";
            logits_after(ckpt, (enum ds_dtype)type, 2, 270, ids, 300, got);
            cr_assert_eq(memcmp(want, got, sizeof(want)), 0, "shape %u, type %u", i, type);
            cr_assert_eq(atomic_load(&apart.held), 0);
        }
    }
}

/* Open, read and ask. */
static int try_apart(const char *ckpt, enum ds_dtype type)
{
    const struct ds_session_args args = {
        .device = "apart", .ckpt = ckpt, .type = type, .threads = 1, .rows = 8};
    const int32_t ids[3] = {1, 2, 3};
    struct ds_session *session = NULL;
    const float *logits;
    struct ds_error err = {0};
    int rc = ds_session_open(&session, &args, &err);

    if (rc == 0)
        rc = ds_session_read(session, ids, 3, &err);
    if (rc == 0)
        rc = ds_session_logits(session, &logits, &err);
    cr_assert(rc == 0 || err.text[0] != '\0');
    ds_session_close(session);
    cr_assert_eq(atomic_load(&apart.held), 0);
    return rc;
}

Test(generate, each_call_of_a_device_may_fail)
{
    const struct ds_model_shape shape = test_llama(1, 16, 2, 1, 24, VOCAB, 8);
    const char *ckpt = save_model("fails", &shape);

    ds_device_add(&apart_backend);
    for (unsigned type = DS_F32; type <= DS_BF16; type++) {
        fails_at = 1;
        while (try_apart(ckpt, (enum ds_dtype)type) < 0)
            fails_at++;
        cr_assert(!atomic_load(&apart.broken) && fails_at > 20, "%u calls", fails_at);
    }
}
