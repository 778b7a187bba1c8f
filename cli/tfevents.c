/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tfevents.c - the contract is in tfevents.h.
 */
#include "cli/tfevents.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/fsio.h"
#include "base/wire.h"

enum { RECORD_BYTES = 2 * DS_MAX_FRAME_BYTES, HEAD_BYTES = 12, HOST_BYTES = 64 };

/* --- protocol buffers ------------------------------------------------------------------------- */

enum wire_type { VARINT, FIXED64, BYTES, FIXED32 = 5 };

static void put_varint(struct ds_buf *out, uint64_t value)
{
    uint8_t byte;

    for (; value > 127; value >>= 7) {
        byte = (uint8_t)(value | 128);
        (void)ds_buf_put(out, &byte, 1);
    }
    byte = (uint8_t)value;
    (void)ds_buf_put(out, &byte, 1);
}

static void put_tag(struct ds_buf *out, unsigned field, enum wire_type type)
{
    put_varint(out, field << 3 | type);
}

static void put_u64(struct ds_buf *out, unsigned field, uint64_t value)
{
    put_tag(out, field, VARINT);
    put_varint(out, value);
}

static void put_double(struct ds_buf *out, unsigned field, double value)
{
    uint8_t bytes[8];
    uint64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    ds_put_u64(bytes, bits);
    put_tag(out, field, FIXED64);
    (void)ds_buf_put(out, bytes, sizeof(bytes));
}

static void put_float(struct ds_buf *out, unsigned field, float value)
{
    uint8_t bytes[4];
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    ds_put_u32(bytes, bits);
    put_tag(out, field, FIXED32);
    (void)ds_buf_put(out, bytes, sizeof(bytes));
}

static void put_bytes(struct ds_buf *out, unsigned field, const void *bytes, size_t len)
{
    put_tag(out, field, BYTES);
    put_varint(out, len);
    (void)ds_buf_put(out, bytes, len);
}

/* --- events ----------------------------------------------------------------------------------- */

/* Numbers of fields in the messages. */
enum {
    EVENT_WALL_TIME = 1,
    EVENT_STEP = 2,
    EVENT_FILE_VERSION = 3,
    EVENT_SUMMARY = 5,
    EVENT_SESSION_LOG = 7,
    SUMMARY_VALUE = 1,
    VALUE_TAG = 1,
    VALUE_SIMPLE_VALUE = 2,
    SESSION_LOG_STATUS = 1,
    STATUS_START = 1
};

static uint32_t masked(const void *bytes, size_t len)
{
    uint32_t crc = ds_crc32c(bytes, len);

    return (crc >> 15 | crc << 17) + 0xa282ead8;
}

static size_t begin_record(struct ds_buf *out)
{
    static const uint8_t room[HEAD_BYTES];
    size_t at = out->len;

    (void)ds_buf_put(out, room, sizeof(room));
    return at;
}

static int end_record(struct ds_buf *out, size_t at)
{
    uint8_t tail[4];
    char *head;

    if (out->failed)
        return -ENOMEM;
    head = out->data + at;
    ds_put_u64(head, out->len - at - HEAD_BYTES);
    ds_put_u32(head + 8, masked(head, 8));
    ds_put_u32(tail, masked(head + HEAD_BYTES, out->len - at - HEAD_BYTES));
    return ds_buf_put(out, tail, sizeof(tail));
}

int ds_tfevents_version(double now_s, struct ds_buf *out)
{
    static const char version[] = "brain.Event:2";
    size_t at = begin_record(out);

    put_double(out, EVENT_WALL_TIME, now_s);
    put_bytes(out, EVENT_FILE_VERSION, version, sizeof(version) - 1);
    return end_record(out, at);
}

int ds_tfevents_start(uint64_t updates, double now_s, struct ds_buf *out)
{
    static const uint8_t session[] = {SESSION_LOG_STATUS << 3 | VARINT, STATUS_START};
    size_t at = begin_record(out);

    put_double(out, EVENT_WALL_TIME, now_s);
    put_u64(out, EVENT_STEP, updates);
    put_bytes(out, EVENT_SESSION_LOG, session, sizeof(session));
    return end_record(out, at);
}

/* One Value, in a Summary. */
static void put_scalar(struct ds_buf *summary, const char *tag, float number)
{
    struct ds_buf value;

    ds_buf_init(&value, DS_MAX_FRAME_BYTES);
    put_bytes(&value, VALUE_TAG, tag, strlen(tag));
    put_float(&value, VALUE_SIMPLE_VALUE, number);
    if (value.failed)
        summary->failed = true;
    else
        put_bytes(summary, SUMMARY_VALUE, value.data, value.len);
    ds_buf_release(&value);
}

static void put_summary(json_t *line, struct ds_buf *out)
{
    struct ds_buf summary;
    const char *key;
    json_t *value;

    ds_buf_init(&summary, RECORD_BYTES);
    json_object_foreach(line, key, value) if (json_is_number(value) && strcmp(key, "step") != 0 &&
                                              strcmp(key, "time") != 0)
        put_scalar(&summary, key, (float)json_number_value(value));
    if (summary.failed)
        out->failed = true;
    else if (summary.len > 0)
        put_bytes(out, EVENT_SUMMARY, summary.data, summary.len);
    ds_buf_release(&summary);
}

int ds_tfevents_scalars(json_t *line, double now_s, struct ds_buf *out)
{
    const json_t *step = json_object_get(line, "step"), *time = json_object_get(line, "time");
    json_int_t number = json_is_integer(step) ? json_integer_value(step) : 0;
    size_t at = begin_record(out), head;

    if (json_object_get(line, "valid_loss") != NULL && number > 0)
        number--;
    put_double(out, EVENT_WALL_TIME, json_is_number(time) ? json_number_value(time) : now_s);
    put_u64(out, EVENT_STEP, number < 0 ? 0 : (uint64_t)number);
    head = out->len;
    put_summary(line, out);
    if (!out->failed && out->len == head) {
        out->len = at;
        return 0;
    }
    return end_record(out, at);
}

/* --- the file ------------------------------------------------------------------------------- */

/* Readers take the files in the order of their names: the time comes first, in digits of one
 * width. */
static int name_file(struct ds_tfevents *events, const char *run_dir, double now_s,
                     struct ds_error *err)
{
    char host[HOST_BYTES] = "", name[128];
    double whole = floor(now_s);

    (void)gethostname(host, sizeof(host) - 1);
    for (char *s = host; *s != '\0'; s++)
        if (!isalnum((unsigned char)*s))
            *s = '-';
    (void)snprintf(name, sizeof(name), "events.out.tfevents.%010.0f.%06.0f.%s", whole,
                   floor((now_s - whole) * 1e6), host[0] == '\0' ? "host" : host);
    return ds_path_join(events->path, run_dir, name, err);
}

static int append(struct ds_tfevents *events, int rc, struct ds_error *err)
{
    if (rc != 0)
        return ds_fail(err, ENOMEM, "no memory for a record of '%s'", events->path);
    rc = ds_fs_write_all(events->fd, ds_buf_text(&events->record), events->record.len, err);
    return ds_error_context(err, rc, "'%s'", events->path);
}

int ds_tfevents_open(struct ds_tfevents *events, const char *run_dir, struct ds_error *err)
{
    double now_s = ds_clock_wall_s();
    int rc;

    *events = (struct ds_tfevents){.fd = -1};
    ds_buf_init(&events->record, RECORD_BYTES);
    rc = name_file(events, run_dir, now_s, err);
    if (rc != 0) {
        events->path[0] = '\0';
        return rc;
    }
    events->fd = open(events->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
    if (events->fd < 0)
        rc = ds_fail(err, errno, "cannot make '%s': %s", events->path, strerror(errno));
    if (rc == 0)
        rc = append(events, ds_tfevents_version(now_s, &events->record), err);
    if (rc != 0)
        ds_tfevents_close(events);
    return rc;
}

void ds_tfevents_close(struct ds_tfevents *events)
{
    if (events->path[0] == '\0')
        return;
    if (events->fd >= 0)
        (void)close(events->fd);
    ds_buf_release(&events->record);
    *events = (struct ds_tfevents){.fd = -1};
}

int ds_tfevents_add(struct ds_tfevents *events, json_t *line, struct ds_error *err)
{
    if (events->path[0] == '\0')
        return 0;
    ds_buf_reset(&events->record);
    return append(events, ds_tfevents_scalars(line, ds_clock_wall_s(), &events->record), err);
}

int ds_tfevents_resume(struct ds_tfevents *events, uint64_t updates, struct ds_error *err)
{
    if (events->path[0] == '\0')
        return 0;
    ds_buf_reset(&events->record);
    return append(events, ds_tfevents_start(updates, ds_clock_wall_s(), &events->record), err);
}

int ds_tfevents_flush(struct ds_tfevents *events, struct ds_error *err)
{
    if (events->path[0] == '\0' || fdatasync(events->fd) == 0)
        return 0;
    return ds_fail(err, errno, "cannot write '%s': %s", events->path, strerror(errno));
}
