/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * session.c - the contract is in session.h.
 *
 * Parameters of F32 are read to where they stay.  Others are read in pieces of PIECE_ELEMS,
 * rounded, and put there.
 */
#include "runtime/generate/session.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device.h"
#include "kernels/scratch.h"
#include "runtime/ckpt/ckpt.h"
#include "runtime/model/net.h"

enum { PIECE_ELEMS = 16 << 20 };

struct room { /* of the device */
    void *at;
    size_t bytes;
};

struct ds_session {
    struct ds_device *device;
    struct ds_ckpt_state state;
    struct ds_net net;
    enum ds_dtype type;
    uint64_t elems, rows; /* of all parameters; most rows of a sequence that may be read */
    unsigned sequences, turn;
    struct ds_net_run *run; /* [sequences], of the last read */
    int32_t *id;            /* [sequences], of a step */
    struct room params, activations, cache;
    struct room logits; /* of the host, where the device is apart */
};

/* --- memory ----------------------------------------------------------------------------------- */

static size_t scratch_bytes(const struct ds_session *s, const struct ds_session_args *args,
                            size_t room)
{
    const struct ds_model_shape *shape = &s->state.shape;
    const struct ds_scratch_query query = {
        .threads = args->threads,
        .act = args->type,
        .rows = DS_SESSION_CHUNK,
        .seq = room,
        .hidden = shape->hidden,
        .normed = ds_model_normed_width(shape),
        .heads = shape->heads,
        .kv_heads = shape->kv_heads,
        .head_size = shape->head_size,
        .ffn_in = ds_model_ffn_in_width(shape),
        .vocab = shape->vocab,
        .logit_rows = s->sequences,
        .pairs = DS_SESSION_CHUNK * shape->experts_each,
        .cached = true,
    };

    return strcmp(args->device, "cpu") == 0 ? ds_scratch_bytes(&query)
                                            : ds_scratch_device_bytes(&query);
}

/* Do parameters go through a piece of memory on their way? */
static bool in_pieces(const struct ds_session *s)
{
    return s->type != DS_F32 || ds_device_is_apart(s->device);
}

static size_t cache_room(const struct ds_session *s)
{
    return (s->rows + DS_CACHE_TILE - 1) / DS_CACHE_TILE * DS_CACHE_TILE;
}

static void measure(struct ds_session *s)
{
    const struct ds_model_shape *shape = &s->state.shape;
    size_t one = ds_dtype_bytes(s->type);

    s->elems = ds_net_params(shape, NULL);
    s->params.bytes = s->elems * one;
    s->logits.bytes = s->sequences * shape->vocab * sizeof(float);
    s->activations.bytes = ds_net_forward_bytes(shape, s->type, DS_SESSION_CHUNK, s->sequences);
    s->cache.bytes =
        2 * s->sequences * shape->layers * ds_net_cache_elems(shape, cache_room(s)) * one;
}

/* Of the device's memory; a CPU's is the host's, where the piece is, too. */
static int check_memory(const struct ds_session *s, size_t scratch, struct ds_error *err)
{
    const double mib = 1 << 20;
    uint64_t piece = in_pieces(s) ? PIECE_ELEMS * sizeof(float) : 0, there = 0, all = 0;
    uint64_t needed = s->params.bytes + s->activations.bytes + s->cache.bytes + piece;
    int rc = ds_device_memory(s->device, &there, &all, err);

    if (rc != 0)
        return rc;
    if (all == 0) { /* an open device of its own has its scratch already */
        needed += scratch;
        there = ds_mem_available();
    }
    if (needed <= there)
        return 0;
    return ds_fail(err, ENOMEM,
                   "the model needs %.0f MiB, %.0f of them for parameters and %.0f for keys and "
                   "values of %" PRIu64
                   " tokens, and there are %.0f; take a smaller type or fewer tokens%s",
                   (double)needed / mib, (double)s->params.bytes / mib,
                   (double)s->cache.bytes / mib, s->sequences * s->rows, (double)there / mib,
                   s->sequences > 1 ? ", or lower '--batch'" : "");
}

static int take_room(struct ds_session *s, struct room *room, struct ds_error *err)
{
    return ds_device_alloc(s->device, room->bytes, &room->at, err);
}

static void give_back(struct ds_session *s, struct room *room)
{
    if (room->at != NULL)
        ds_device_free(s->device, room->at, room->bytes);
}

/* --- parameters ------------------------------------------------------------------------------- */

/* What is read together, and where it goes from there. */
struct load {
    struct ds_session *session;
    struct ds_ckpt_model *model;
    struct ds_ckpt_part *part;
    uint64_t *to; /* element of the parameters, for each part */
    size_t parts;
    struct room piece; /* [PIECE_ELEMS] of the host, or nothing: straight there */
    struct room same;  /* on the device, where that has to be rounded */
    uint64_t used;
};

/* A part of the piece to its place among the parameters. */
static int put(const struct load *load, size_t i, struct ds_error *err)
{
    const struct ds_session *s = load->session;
    struct ds_stream *stream = ds_device_stream(s->device);
    const float *from = load->part[i].data, *piece = load->piece.at, *same = load->same.at;
    char *to = (char *)s->params.at + load->to[i] * ds_dtype_bytes(s->type);
    const struct ds_cast_args args = {.n = load->part[i].count,
                                      .from = DS_F32,
                                      .to = s->type,
                                      .x = same == NULL ? from : same + (from - piece),
                                      .y = to};

    if (s->type == DS_F32)
        return ds_stream_copy(stream, DS_COPY_UP, to, from, args.n * sizeof(float), err);
    return ds_cast(&args, stream, err);
}

static int flush(struct load *load, struct ds_error *err)
{
    struct ds_stream *stream = ds_device_stream(load->session->device);
    int rc = ds_ckpt_model_read(load->model, load->part, load->parts, err);

    if (rc == 0 && load->same.at != NULL)
        rc = ds_stream_copy(stream, DS_COPY_UP, load->same.at, load->piece.at,
                            load->used * sizeof(float), err);
    for (size_t i = 0; rc == 0 && load->piece.at != NULL && i < load->parts; i++)
        rc = put(load, i, err);
    if (rc == 0)
        rc = ds_stream_finish(stream, err); /* before the piece is filled again */
    load->parts = 0;
    load->used = 0;
    return rc;
}

/* The whole of parameter `index`, which lies at element `at`. */
static int add_param(struct load *load, size_t index, uint64_t at, struct ds_error *err)
{
    struct ds_param param;
    int rc = 0;

    ds_model_param(&load->session->state.shape, index, &param);
    for (uint64_t first = 0, count; rc == 0 && first < param.elems; first += count) {
        uint64_t left = PIECE_ELEMS - load->used;
        bool straight = load->piece.at == NULL;
        float *data = straight ? (float *)load->session->params.at + at
                               : (float *)load->piece.at + load->used;

        count = param.elems - first;
        if (!straight && count > left)
            count = left;
        load->to[load->parts] = at + first;
        load->part[load->parts++] =
            (struct ds_ckpt_part){.param = index, .first = first, .count = count, .data = data};
        load->used += straight ? 0 : count;
        if (load->used == PIECE_ELEMS)
            rc = flush(load, err);
    }
    return rc;
}

static int load_params(struct load *load, const uint64_t *at, struct ds_error *err)
{
    const struct ds_model_shape *shape = &load->session->state.shape;
    size_t count = ds_model_param_count(shape);
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = add_param(load, i, at[i], err);
    return rc == 0 && load->parts > 0 ? flush(load, err) : rc;
}

static int take_pieces(struct load *load, struct ds_error *err)
{
    const struct ds_session *s = load->session;
    int rc = 0;

    load->piece.bytes = load->same.bytes = PIECE_ELEMS * sizeof(float);
    if (in_pieces(s))
        rc = ds_device_host_alloc(s->device, load->piece.bytes, &load->piece.at, err);
    if (rc == 0 && s->type != DS_F32 && ds_device_is_apart(s->device))
        rc = ds_device_alloc(s->device, load->same.bytes, &load->same.at, err);
    return rc;
}

static int load_weights(struct ds_session *s, const char *path, struct ds_error *err)
{
    size_t count = ds_model_param_count(&s->state.shape);
    struct load load = {.session = s,
                        .part = calloc(count, sizeof(*load.part)),
                        .to = calloc(count, sizeof(*load.to))};
    uint64_t *at = calloc(count, sizeof(*at));
    int rc;

    if (load.part == NULL || load.to == NULL || at == NULL) {
        rc = ds_fail(err, ENOMEM, "no memory to read %zu tensors", count);
    } else {
        (void)ds_net_params(&s->state.shape, at);
        rc = ds_ckpt_model_open(&load.model, path, err);
        if (rc == 0)
            rc = take_pieces(&load, err);
        if (rc == 0)
            rc = load_params(&load, at, err);
    }
    ds_ckpt_model_close(load.model);
    free(load.part);
    free(load.to);
    free(at);
    if (load.piece.at != NULL)
        ds_device_host_free(s->device, load.piece.at, load.piece.bytes);
    give_back(s, &load.same);
    return rc;
}

/* --- the session ------------------------------------------------------------------------------ */

static int bind(struct ds_session *s, struct ds_error *err)
{
    const struct ds_net_forward_args args = {.shape = &s->state.shape,
                                             .act = s->type,
                                             .rows = DS_SESSION_CHUNK,
                                             .longest = s->rows,
                                             .params = s->params.at,
                                             .activations = s->activations.at,
                                             .keys = s->cache.at,
                                             .values =
                                                 (unsigned char *)s->cache.at + s->cache.bytes / 2,
                                             .room = cache_room(s),
                                             .sequences = s->sequences};

    return ds_net_init_forward(&s->net, &args, ds_device_stream(s->device), err);
}

static int open_all(struct ds_session *s, const struct ds_session_args *args, struct ds_error *err)
{
    struct ds_device_args device = {.name = args->device, .threads = args->threads};
    int rc = ds_ckpt_peek(args->ckpt, &s->state, err);

    if (rc == 0)
        rc = ds_error_context(err, ds_model_check(&s->state.shape, err), "'%s'", args->ckpt);
    if (rc != 0)
        return rc;
    s->state.shape = ds_model_base(&s->state.shape);
    s->rows = args->rows < s->state.shape.context ? args->rows : s->state.shape.context;
    s->sequences = args->sequences > 0 ? args->sequences : 1;
    s->run = calloc(s->sequences, sizeof(*s->run));
    s->id = calloc(s->sequences, sizeof(*s->id));
    if (s->run == NULL || s->id == NULL)
        return ds_fail(err, ENOMEM, "no memory for %u sequences", s->sequences);
    measure(s);
    device.scratch_bytes = scratch_bytes(s, args, cache_room(s));
    rc = ds_device_open(&s->device, &device, err);
    if (rc == 0)
        rc = check_memory(s, device.scratch_bytes, err);
    if (rc == 0 && ds_device_is_apart(s->device))
        rc = ds_device_host_alloc(s->device, s->logits.bytes, &s->logits.at, err);
    if (rc == 0)
        rc = take_room(s, &s->params, err);
    if (rc == 0)
        rc = take_room(s, &s->activations, err);
    if (rc == 0)
        rc = take_room(s, &s->cache, err);
    if (rc == 0)
        rc = load_weights(s, args->ckpt, err);
    return rc == 0 ? bind(s, err) : rc;
}

int ds_session_open(struct ds_session **session, const struct ds_session_args *args,
                    struct ds_error *err)
{
    struct ds_session *s = calloc(1, sizeof(*s));
    int rc;

    if (s == NULL)
        return ds_fail(err, ENOMEM, "no memory for a model");
    s->type = args->type;
    rc = open_all(s, args, err);
    if (rc != 0) {
        ds_session_close(s);
        return rc;
    }
    *session = s;
    return 0;
}

void ds_session_close(struct ds_session *session)
{
    if (session == NULL)
        return;
    ds_net_release(&session->net);
    give_back(session, &session->params);
    give_back(session, &session->activations);
    give_back(session, &session->cache);
    if (session->logits.at != NULL)
        ds_device_host_free(session->device, session->logits.at, session->logits.bytes);
    ds_device_close(session->device);
    free(session->run);
    free(session->id);
    free(session);
}

const struct ds_model_shape *ds_session_shape(const struct ds_session *session)
{
    return &session->state.shape;
}

uint64_t ds_session_bytes(const struct ds_session *session)
{
    const struct ds_model_shape *shape = &session->state.shape;
    uint64_t looked_up = shape->tie_embeddings ? 0 : shape->vocab * shape->hidden;

    return (ds_model_active_elems(shape) - looked_up) * ds_dtype_bytes(session->type);
}

void ds_session_turn(struct ds_session *session, unsigned sequence)
{
    session->turn = sequence;
}

uint64_t ds_session_rows(const struct ds_session *session)
{
    return session->net.cache.rows[session->turn];
}

uint64_t ds_session_room(const struct ds_session *session)
{
    return session->rows;
}

/* Do `count` more ids fit behind the sequence, and are they the model's? */
static int check_ids(const struct ds_session *session, unsigned sequence, const int32_t *ids,
                     size_t count, struct ds_error *err)
{
    const uint64_t vocab = session->state.shape.vocab;
    const uint64_t rows = session->net.cache.rows[sequence];

    if (count > session->rows - rows)
        return ds_fail(err, ENOSPC,
                       "%zu tokens do not fit behind %" PRIu64 ", there is room for %" PRIu64,
                       count, rows, session->rows);
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || (uint64_t)ids[i] >= vocab)
            return ds_fail(err, EDOM, "token %d is not of the model's vocabulary of %" PRIu64,
                           ids[i], vocab);
    return 0;
}

int ds_session_read(struct ds_session *session, const int32_t *ids, size_t count,
                    struct ds_error *err)
{
    struct ds_net_run *run = session->run;
    int rc = check_ids(session, session->turn, ids, count, err);

    run->sequence = session->turn;
    for (size_t at = 0; rc == 0 && at < count; at += run->rows) {
        run->rows = count - at < DS_SESSION_CHUNK ? count - at : (size_t)DS_SESSION_CHUNK;
        rc = ds_net_read(&session->net, run, 1, ids + at, err);
    }
    return rc == 0 ? ds_stream_finish(session->net.stream, err) : rc; /* the ids are the caller's */
}

int ds_session_step(struct ds_session *session, const struct ds_session_next *next, size_t count,
                    struct ds_error *err)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < count; i++) {
        session->run[i] = (struct ds_net_run){.sequence = next[i].sequence, .rows = 1};
        session->id[i] = next[i].id;
        rc = check_ids(session, next[i].sequence, &next[i].id, 1, err);
    }
    if (rc == 0)
        rc = ds_net_read(&session->net, session->run, count, session->id, err);
    return rc == 0 ? ds_stream_finish(session->net.stream, err) : rc;
}

void ds_session_rewind(struct ds_session *session, uint64_t rows)
{
    if (rows < ds_session_rows(session))
        session->net.cache.rows[session->turn] = rows;
}

int ds_session_copy(struct ds_session *session, unsigned from, uint64_t rows, struct ds_error *err)
{
    return ds_net_copy_rows(&session->net, from, session->turn, rows, err);
}

int ds_session_logits(struct ds_session *session, const float **logits, struct ds_error *err)
{
    const struct room *here = &session->logits;
    int rc = ds_net_logits(&session->net, err);

    *logits = here->at != NULL ? here->at : ds_net_logits_at(&session->net);
    if (rc == 0 && here->at != NULL)
        rc = ds_stream_copy(session->net.stream, DS_COPY_DOWN, here->at,
                            ds_net_logits_at(&session->net),
                            here->bytes / session->sequences * session->net.cache.runs, err);
    return rc == 0 ? ds_stream_finish(session->net.stream, err) : rc;
}
