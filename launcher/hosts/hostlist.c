/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hostlist.c - the contract is in hostlist.h.
 *
 * Every name is cut in three, text, number, text; sorted that way, the members of a range stand
 * side by side.
 */
#include "launcher/hosts/hostlist.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_DIGITS = 9, NUMBER_BYTES = 16 };

struct part {
    const char *name;
    size_t before, digits; /* bytes before the number, and its own; digits 0: it has none */
    unsigned long number;
};

static const char *tail_of(const struct part *part)
{
    return part->name + part->before + part->digits;
}

static bool is_digit(char c)
{
    return isdigit((unsigned char)c) != 0;
}

static struct part cut(const char *name)
{
    size_t end = strcspn(name, "."), begin;
    struct part part = {.name = name, .before = strlen(name)};

    if (strspn(name, "0123456789.") == part.before) /* an address: its last number */
        end = part.before;
    while (end > 0 && !is_digit(name[end - 1]))
        end--;
    for (begin = end; begin > 0 && is_digit(name[begin - 1]);)
        begin--;
    if (begin == end || end - begin > MOST_DIGITS)
        return part;
    part.before = begin;
    part.digits = end - begin;
    part.number = strtoul(name + begin, NULL, 10);
    return part;
}

/* Do both belong to one range, whatever their numbers? */
static bool same_frame(const struct part *a, const struct part *b)
{
    return a->digits > 0 && b->digits > 0 && a->before == b->before &&
           memcmp(a->name, b->name, a->before) == 0 && strcmp(tail_of(a), tail_of(b)) == 0;
}

static int compare(const void *left, const void *right)
{
    const struct part *a = left, *b = right;
    size_t shorter = a->before < b->before ? a->before : b->before;
    int order = memcmp(a->name, b->name, shorter);

    if (order == 0 && a->before != b->before)
        order = a->before < b->before ? -1 : 1;
    if (order == 0)
        order = strcmp(tail_of(a), tail_of(b));
    if (order == 0 && a->number != b->number)
        order = a->number < b->number ? -1 : 1;
    return order != 0 ? order : strcmp(a->name, b->name);
}

/* Is `next` what the range from `first` on gives after `last`? */
static bool follows(const struct part *first, const struct part *last, const struct part *next)
{
    bool padded = first->name[first->before] == '0';
    char text[NUMBER_BYTES];

    if (!same_frame(first, next) || next->number != last->number + 1)
        return false;
    (void)snprintf(text, sizeof(text), "%0*lu", padded ? (int)first->digits : 0, next->number);
    return strlen(text) == next->digits &&
           memcmp(text, next->name + next->before, next->digits) == 0;
}

/* "01-16" from part[from] on; returns the index behind it. */
static size_t print_range(const struct part *part, size_t from, size_t count, struct ds_buf *out)
{
    size_t last = from;

    while (last + 1 < count && follows(&part[from], &part[last], &part[last + 1]))
        last++;
    (void)ds_buf_put(out, part[from].name + part[from].before, part[from].digits);
    if (last > from) {
        (void)ds_buf_puts(out, "-");
        (void)ds_buf_put(out, part[last].name + part[last].before, part[last].digits);
    }
    return last + 1;
}

/* A name, or the names around one number; returns the index behind them. */
static size_t print_group(const struct part *part, size_t from, size_t count, struct ds_buf *out)
{
    size_t end = from + 1;

    while (end < count && same_frame(&part[from], &part[end]))
        end++;
    if (end == from + 1) {
        (void)ds_buf_puts(out, part[from].name);
        return end;
    }
    (void)ds_buf_put(out, part[from].name, part[from].before);
    for (size_t at = from; at < end;) {
        (void)ds_buf_puts(out, at == from ? "[" : ",");
        at = print_range(part, at, end, out);
    }
    (void)ds_buf_puts(out, "]");
    (void)ds_buf_puts(out, tail_of(&part[from]));
    return end;
}

int ds_hostlist_print(const char *const *names, size_t count, struct ds_buf *out)
{
    struct part *part = calloc(count + 1, sizeof(*part));
    size_t kept = 0;

    if (part == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        part[i] = cut(names[i]);
    qsort(part, count, sizeof(*part), compare);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || strcmp(part[kept - 1].name, part[i].name) != 0)
            part[kept++] = part[i];
    for (size_t at = 0; at < kept;) {
        if (at > 0)
            (void)ds_buf_puts(out, ",");
        at = print_group(part, at, kept, out);
    }
    free(part);
    return out->failed ? -ENOBUFS : 0;
}
