/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * yaml.c - libyaml's events become a tree; the contract is in yaml.h.
 *
 * The text is checked as a whole first (size, UTF-8, control characters): what
 * libyaml would say about bytes has no line.  Then each event is judged before
 * the next one is asked for; the stack of open collections is the depth bound.
 */
#include "base/yaml.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/limits.h"
#include "base/utf8.h"

struct reader {
    struct ds_arena *arena;
    const char *name;
    struct ds_error *err;
    yaml_parser_t parser;
    struct level { /* an open map or sequence */
        struct ds_yaml *node;
        struct ds_yaml **tail;
        const char *key; /* map: the key that waits for its value */
        struct ds_yaml_mark key_mark;
    } level[DS_MAX_YAML_DEPTH];
    size_t depth, nodes;
    struct ds_yaml *root;
};

/* "name:line:column: " before the message. */
#define FAIL_AT(r, at, ...)                                                                        \
    ds_error_context((r)->err, ds_fail((r)->err, EINVAL, __VA_ARGS__), "%s:%u:%u", (r)->name,      \
                     (at).line, (at).column)

static struct ds_yaml_mark mark_of(yaml_mark_t mark)
{
    return (struct ds_yaml_mark){.line = (unsigned)mark.line + 1,
                                 .column = (unsigned)mark.column + 1};
}

/* --- bytes ----------------------------------------------------------------------------------- */

/* Code point of the valid sequence of `len` bytes at `s`. */
static uint32_t code_point(const char *s, size_t len)
{
    const unsigned char *at = (const unsigned char *)s;
    uint32_t code = len == 1 ? at[0] : at[0] & (0x7Fu >> len);

    for (size_t i = 1; i < len; i++)
        code = code << 6 | (at[i] & 0x3Fu);
    return code;
}

/* YAML 1.1, section 4.1: what may stand in a stream. */
static bool printable(uint32_t code)
{
    if (code < 0x20)
        return code == '\t' || code == '\n' || code == '\r';
    return code != 0x7F && (code < 0x80 || code == 0x85 || code >= 0xA0) && code != 0xFEFF &&
           code != 0xFFFE && code != 0xFFFF;
}

static int check_bytes(struct reader *r, const char *text, size_t len)
{
    struct ds_yaml_mark at = {1, 1};

    for (size_t i = 0, step; i < len; i += step) {
        uint32_t code;

        step = ds_utf8_len(text + i, len - i);
        if (step == 0)
            return FAIL_AT(r, at, "byte 0x%02x is not valid UTF-8", (unsigned char)text[i]);
        code = code_point(text + i, step);
        if (code == 0xFEFF && i == 0)
            continue; /* a byte order mark takes no column */
        if (!printable(code))
            return FAIL_AT(r, at, "control character U+%04X is not allowed", code);
        if (code == '\n' || (code == '\r' && (i + 1 == len || text[i + 1] != '\n')))
            at = (struct ds_yaml_mark){at.line + 1, 1};
        else if (code != '\r')
            at.column++;
    }
    return 0;
}

/* --- maps --------------------------------------------------------------------------------------
 */

static int by_key(const void *a, const void *b)
{
    const struct ds_yaml *x = *(struct ds_yaml *const *)a, *y = *(struct ds_yaml *const *)b;
    int order = strcmp(x->key, y->key);

    if (order != 0)
        return order;
    if (x->key_mark.line != y->key_mark.line)
        return x->key_mark.line < y->key_mark.line ? -1 : 1;
    return x->key_mark.column < y->key_mark.column ? -1 : x->key_mark.column > y->key_mark.column;
}

/* Sorted, not pairwise: a map may have thousands of keys. */
static int check_duplicates(struct reader *r, const struct ds_yaml *map)
{
    struct ds_yaml **all;
    size_t n = 0;

    if (map->count < 2)
        return 0;
    all = ds_arena_alloc(r->arena, map->count, sizeof(struct ds_yaml *));
    if (all == NULL)
        return ds_fail(r->err, ENOMEM, "out of memory");
    for (struct ds_yaml *c = map->child; c != NULL; c = c->next)
        all[n++] = c;
    qsort(all, n, sizeof(all[0]), by_key);
    for (size_t i = 1; i < n; i++) {
        if (strcmp(all[i - 1]->key, all[i]->key) == 0)
            return FAIL_AT(r, all[i]->key_mark, "key '%s' is already set on line %u", all[i]->key,
                           all[i - 1]->key_mark.line);
    }
    return 0;
}

/* --- events ------------------------------------------------------------------------------------
 */

static struct level *top(struct reader *r)
{
    return r->depth == 0 ? NULL : &r->level[r->depth - 1];
}

/* Keep the text of a key until its value comes. */
static int take_key(struct reader *r, struct level *in, const struct ds_yaml *key)
{
    if (key->kind != DS_YAML_SCALAR)
        return FAIL_AT(r, key->mark, "a key must be text, not %s", ds_yaml_kind_name(key));
    if (key->plain && strcmp(key->text, "<<") == 0)
        return FAIL_AT(r, key->mark, "merge key '<<' is not allowed; write the keys out");
    in->key = key->text;
    in->key_mark = key->mark;
    return 0;
}

/* Hang a copy of `node` into the tree; maps and sequences become the open level. */
static int add_node(struct reader *r, const struct ds_yaml *node)
{
    struct level *in = top(r);
    struct ds_yaml *kept;

    if (++r->nodes > DS_MAX_YAML_NODES)
        return FAIL_AT(r, node->mark, "more than %d values", DS_MAX_YAML_NODES);
    if (in != NULL && in->node->kind == DS_YAML_MAP && in->key == NULL)
        return take_key(r, in, node);
    if (node->kind != DS_YAML_SCALAR && r->depth == DS_MAX_YAML_DEPTH)
        return FAIL_AT(r, node->mark, "nested more than %d levels deep", DS_MAX_YAML_DEPTH);

    kept = ds_arena_alloc(r->arena, 1, sizeof(*kept));
    if (kept == NULL)
        return ds_fail(r->err, ENOMEM, "out of memory");
    *kept = *node;
    if (in == NULL) {
        r->root = kept;
    } else {
        kept->key = in->key;
        kept->key_mark = in->key_mark;
        in->key = NULL;
        in->node->count++;
        *in->tail = kept;
        in->tail = &kept->next;
    }
    if (kept->kind != DS_YAML_SCALAR)
        r->level[r->depth++] = (struct level){.node = kept, .tail = &kept->child};
    return 0;
}

static int add_scalar(struct reader *r, const yaml_event_t *event)
{
    struct ds_yaml node = {.kind = DS_YAML_SCALAR, .mark = mark_of(event->start_mark)};
    const char *text = (const char *)event->data.scalar.value;
    size_t len = event->data.scalar.length;

    if (memchr(text, '\0', len) != NULL)
        return FAIL_AT(r, node.mark, "text must not hold a NUL");
    node.plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    node.text = ds_arena_strndup(r->arena, text, len);
    if (node.text == NULL)
        return ds_fail(r->err, ENOMEM, "out of memory");
    return add_node(r, &node);
}

static int check_properties(struct reader *r, const yaml_event_t *event, const yaml_char_t *anchor,
                            const yaml_char_t *tag)
{
    struct ds_yaml_mark at = mark_of(event->start_mark);

    if (anchor != NULL)
        return FAIL_AT(r, at, "anchor '&%.64s' is not allowed", (const char *)anchor);
    if (tag != NULL)
        return FAIL_AT(r, at, "tag '%.64s' is not allowed", (const char *)tag);
    return 0;
}

static int end_level(struct reader *r)
{
    const struct ds_yaml *node;

    assert(r->depth > 0); /* libyaml's starts and ends balance */
    node = r->level[--r->depth].node;
    return node->kind == DS_YAML_MAP ? check_duplicates(r, node) : 0;
}

static int start_document(struct reader *r, const yaml_event_t *event)
{
    struct ds_yaml_mark at = mark_of(event->start_mark);

    if (r->root != NULL)
        return FAIL_AT(r, at, "a second document is not allowed");
    if (event->data.document_start.tag_directives.start !=
        event->data.document_start.tag_directives.end)
        return FAIL_AT(r, at, "a '%%TAG' directive is not allowed");
    return 0;
}

static int end_stream(struct reader *r)
{
    struct ds_yaml_mark at = {1, 1};

    if (r->root == NULL || (r->root->kind == DS_YAML_SCALAR && ds_yaml_is_null(r->root)))
        return FAIL_AT(r, at, "the document is empty");
    return 0;
}

static int take_event(struct reader *r, const yaml_event_t *event)
{
    struct ds_yaml node = {.mark = mark_of(event->start_mark)};
    int rc;

    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT: return start_document(r, event);
    case YAML_STREAM_END_EVENT: return end_stream(r);
    case YAML_ALIAS_EVENT:
        return FAIL_AT(r, node.mark,
                       "alias '*%.64s' is not allowed; put text that starts with '*' "
                       "in quotes",
                       (const char *)event->data.alias.anchor);
    case YAML_SCALAR_EVENT:
        rc = check_properties(r, event, event->data.scalar.anchor, event->data.scalar.tag);
        return rc != 0 ? rc : add_scalar(r, event);
    case YAML_SEQUENCE_START_EVENT:
        node.kind = DS_YAML_SEQUENCE;
        rc = check_properties(r, event, event->data.sequence_start.anchor,
                              event->data.sequence_start.tag);
        return rc != 0 ? rc : add_node(r, &node);
    case YAML_MAPPING_START_EVENT:
        node.kind = DS_YAML_MAP;
        rc = check_properties(r, event, event->data.mapping_start.anchor,
                              event->data.mapping_start.tag);
        return rc != 0 ? rc : add_node(r, &node);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT: return end_level(r);
    default: return 0;
    }
}

/* What libyaml found wrong, at its place. */
static int parser_error(struct reader *r)
{
    const yaml_parser_t *p = &r->parser;
    struct ds_yaml_mark at = mark_of(p->problem_mark);

    if (p->error == YAML_MEMORY_ERROR)
        return ds_fail(r->err, ENOMEM, "out of memory");
    return FAIL_AT(r, at, "not valid YAML: %s%s%s", p->problem == NULL ? "malformed" : p->problem,
                   p->context == NULL ? "" : " ", p->context == NULL ? "" : p->context);
}

static int read_events(struct reader *r)
{
    yaml_event_t event;
    bool end = false;
    int rc = 0;

    while (rc == 0 && !end) {
        if (yaml_parser_parse(&r->parser, &event) == 0)
            return parser_error(r);
        end = event.type == YAML_STREAM_END_EVENT;
        rc = take_event(r, &event);
        yaml_event_delete(&event);
    }
    return rc;
}

int ds_yaml_parse(struct ds_arena *arena, const char *name, const void *text, size_t len,
                  struct ds_yaml **root, struct ds_error *err)
{
    struct reader r = {.arena = arena, .name = name, .err = err};
    struct ds_yaml_mark start = {1, 1};
    int rc;

    if (len > DS_MAX_YAML_BYTES)
        return FAIL_AT(&r, start, "larger than %d bytes", DS_MAX_YAML_BYTES);
    rc = check_bytes(&r, text, len);
    if (rc != 0)
        return rc;
    if (yaml_parser_initialize(&r.parser) == 0)
        return ds_fail(err, ENOMEM, "out of memory");
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text = (const char *)text + 3; /* libyaml counts a byte order mark as a column */
        len -= 3;
    }
    yaml_parser_set_input_string(&r.parser, text, len);
    rc = read_events(&r);
    yaml_parser_delete(&r.parser);
    if (rc == 0)
        *root = r.root;
    return rc;
}

/* --- reading the tree ---------------------------------------------------------------------------
 */

const struct ds_yaml *ds_yaml_get(const struct ds_yaml *map, const char *key)
{
    for (const struct ds_yaml *c = map->child; map->kind == DS_YAML_MAP && c != NULL; c = c->next) {
        if (strcmp(c->key, key) == 0)
            return c;
    }
    return NULL;
}

bool ds_yaml_is_null(const struct ds_yaml *node)
{
    return node->kind == DS_YAML_SCALAR && node->plain &&
           (node->text[0] == '\0' || strcmp(node->text, "~") == 0 ||
            strcmp(node->text, "null") == 0 || strcmp(node->text, "Null") == 0 ||
            strcmp(node->text, "NULL") == 0);
}

const char *ds_yaml_kind_name(const struct ds_yaml *node)
{
    static const char *const names[] = {
        [DS_YAML_SCALAR] = "text", [DS_YAML_SEQUENCE] = "a list", [DS_YAML_MAP] = "a map"};

    return names[node->kind];
}

/* --- writing ------------------------------------------------------------------------------------
 */

/* Must it be escaped in double quotes?  What is not printable, and YAML 1.1's own line breaks. */
static bool needs_escape(uint32_t code)
{
    return !printable(code) || code < 0x20 || code == 0x85 || code == 0x2028 || code == 0x2029;
}

int ds_yaml_quote(const char *text, struct ds_buf *out)
{
    size_t len = strlen(text);

    ds_buf_puts(out, "\"");
    for (size_t i = 0, step; i < len; i += step) {
        uint32_t code;

        step = ds_utf8_len(text + i, len - i);
        if (step == 0)
            return -EINVAL;
        code = code_point(text + i, step);
        if (needs_escape(code)) { /* none of these is above U+FFFF */
            ds_buf_printf(out, "\\u%04x", code);
        } else {
            if (code == '"' || code == '\\')
                ds_buf_puts(out, "\\");
            ds_buf_put(out, text + i, step);
        }
    }
    return ds_buf_puts(out, "\"");
}
