/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * console.c - the contract is in console.h.
 */
#include "cli/console.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum {
    WRITE_BYTES = 4096, /* a pipe that polls as writable takes so much */
    REDRAW_MS = 50,
    WAITING_MS = 100,
    LINE_BYTES = 512 * 1024,
    WIDTH_DEFAULT = 80,
    SEGMENT_BYTES = 48,
};
#define CLEAR_LINE "\r\033[K"
#define RED        "\033[31m"
#define YELLOW     "\033[33m"
#define DIM        "\033[2m"
#define PLAIN      "\033[0m"

/* --- writing ---------------------------------------------------------------------------------- */

/* May bytes be written now?  Waits for the reader unless a signal waits for us. */
static bool may_write(struct ds_console *console, int fd)
{
    struct pollfd wait[2] = {{.fd = fd, .events = POLLOUT},
                             {.fd = console->args.interrupt_fd, .events = POLLIN}};
    int n;

    for (;;) {
        n = poll(wait, console->hurried ? 1 : 2, console->hurried ? 0 : WAITING_MS);
        if (n > 0 || console->hurried || (n < 0 && errno != EINTR))
            break;
        if (console->args.waiting != NULL)
            console->args.waiting(console->args.user);
    }
    if (n > 0 && wait[0].revents == 0 && wait[1].revents != 0)
        console->hurried = true;
    return n > 0 && wait[0].revents != 0;
}

static void put(struct ds_console *console, bool is_err, const char *bytes, size_t len);

/* Nothing more can be written there. */
static void give_up(struct ds_console *console, bool is_err, int number)
{
    char text[160];

    console->gone[is_err] = true;
    if (is_err || number == EPIPE)
        return;
    console->lost = true;
    (void)snprintf(text, sizeof(text),
                   "dsrun: warning: cannot write to standard output: %s; nothing more is shown\n",
                   strerror(number));
    put(console, true, text, strlen(text));
}

static void put(struct ds_console *console, bool is_err, const char *bytes, size_t len)
{
    int fd = is_err ? console->args.err_fd : console->args.out_fd;

    while (len > 0 && !console->gone[is_err] && may_write(console, fd)) {
        ssize_t n = write(fd, bytes, len < WRITE_BYTES ? len : WRITE_BYTES);

        if (n < 0 && errno != EINTR && errno != EAGAIN)
            give_up(console, is_err, errno);
        if (n > 0) {
            bytes += n;
            len -= (size_t)n;
        }
    }
}

/* Write `out`, taking the live line off the screen first. */
static void flush(struct ds_console *console, bool is_err)
{
    if (console->live)
        put(console, false, CLEAR_LINE, sizeof(CLEAR_LINE) - 1);
    put(console, is_err, ds_buf_text(&console->out), console->out.len);
    ds_buf_reset(&console->out);
    if (console->live)
        put(console, false, ds_buf_text(&console->line), console->line.len);
}

void ds_console_init(struct ds_console *console, const struct ds_console_args *args)
{
    const char *term = getenv("TERM");

    *console = (struct ds_console){.args = *args};
    console->tty = !args->json && !args->quiet && isatty(args->out_fd) && term != NULL &&
                   strcmp(term, "dumb") != 0;
    ds_buf_init(&console->line, LINE_BYTES);
    ds_buf_init(&console->out, LINE_BYTES);
}

bool ds_console_lost(const struct ds_console *console)
{
    return console->lost;
}

void ds_console_settle(struct ds_console *console)
{
    if (console->live)
        put(console, false, "\n", 1);
    console->live = false;
}

void ds_console_release(struct ds_console *console)
{
    ds_console_settle(console);
    ds_buf_release(&console->line);
    ds_buf_release(&console->out);
    *console = (struct ds_console){0};
}

/* --- permanent lines -------------------------------------------------------------------------- */

void ds_console_text(struct ds_console *console, const char *text)
{
    if (console->args.quiet || console->args.json)
        return;
    (void)ds_buf_puts(&console->out, text);
    flush(console, false);
}

static void DS_PRINTF(5, 0) permanent(struct ds_console *console, bool is_err, const char *color,
                                      const char *prefix, const char *fmt, va_list args)
{
    char text[2 * DS_MAX_ERROR_TEXT], safe[4 * sizeof(text)];
    int len = vsnprintf(text, sizeof(text), fmt, args);

    if (len < 0)
        return;
    (void)ds_escape_control(safe, sizeof(safe), text,
                            (size_t)len < sizeof(text) ? (size_t)len : sizeof(text) - 1);
    if (!console->args.color)
        color = "";
    (void)ds_buf_printf(&console->out, "%s%s%s%s\n", color, prefix, *color != '\0' ? PLAIN : "",
                        safe);
    flush(console, is_err);
}

void ds_console_note(struct ds_console *console, const char *fmt, ...)
{
    va_list args;

    if (console->args.quiet || console->args.json)
        return;
    va_start(args, fmt);
    permanent(console, false, "", "", fmt, args);
    va_end(args);
}

void ds_console_warn(struct ds_console *console, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    permanent(console, true, YELLOW, "dsrun: warning: ", fmt, args);
    va_end(args);
}

void ds_console_error(struct ds_console *console, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    permanent(console, true, RED, "dsrun: error: ", fmt, args);
    va_end(args);
}

void ds_console_rank(struct ds_console *console, const char *host, uint32_t rank, bool is_err,
                     const char *text, bool force)
{
    const char *dim = console->args.color ? DIM : "", *plain = console->args.color ? PLAIN : "";

    if (!force && (console->args.quiet || console->args.json))
        return;
    (void)ds_buf_printf(&console->out, "%s[%s %u]%s ", dim, host, rank, plain);
    (void)ds_buf_puts(&console->out, text);
    (void)ds_buf_puts(&console->out, "\n");
    flush(console, is_err);
}

void ds_console_host(struct ds_console *console, const char *host, bool is_err, const char *text)
{
    const char *dim = console->args.color ? DIM : "", *plain = console->args.color ? PLAIN : "";

    (void)ds_buf_printf(&console->out, "%s[%s]%s ", dim, host, plain);
    (void)ds_buf_puts(&console->out, text);
    (void)ds_buf_puts(&console->out, "\n");
    flush(console, is_err);
}

void ds_console_head(const struct ds_console *console, const char *hosts, struct ds_buf *text)
{
    const char *dim = console->args.color ? DIM : "", *plain = console->args.color ? PLAIN : "";

    (void)ds_buf_puts(text, dim);
    (void)ds_buf_puts(text, hosts);
    (void)ds_buf_printf(text, ":%s\n", plain);
}

void ds_console_put(struct ds_console *console, bool is_err, const struct ds_buf *text)
{
    put(console, is_err, ds_buf_text(text), text->len);
}

/* --- steps ------------------------------------------------------------------------------------ */

static bool number(const json_t *object, const char *key, double *out)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_number(value))
        return false;
    *out = json_number_value(value);
    return true;
}

/* Is the key there without a number?  So JSON tells one that is not finite. */
static bool not_finite(const json_t *object, const char *key)
{
    return json_is_null(json_object_get(object, key));
}

/* A line of segments, of which what comes first matters most: from the first one on that does not
 * fit in `width` columns there are none. */
struct segments {
    struct ds_buf *out;
    unsigned width; /* 0: any */
    bool full;
};

static void DS_PRINTF(2, 3) segment(struct segments *line, const char *fmt, ...)
{
    char text[SEGMENT_BYTES];
    va_list args;
    size_t gap = line->out->len > 0 ? 2 : 0;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (line->width != 0 && line->out->len + gap + strlen(text) > line->width)
        line->full = true;
    if (!line->full)
        (void)ds_buf_printf(line->out, "%s%s", gap > 0 ? "  " : "", text);
}

static void time_segment(struct segments *line, double seconds)
{
    uint64_t s = seconds < 1e9 ? (uint64_t)(seconds + 0.5) : 1000000000;

    if (s < 3600)
        segment(line, "left %" PRIu64 ":%02" PRIu64, s / 60, s % 60);
    else
        segment(line, "left %" PRIu64 ":%02" PRIu64 ":%02" PRIu64, s / 3600, s / 60 % 60, s % 60);
}

/* Step and loss, without their names where there is no room for both. */
static void first_segments(struct segments *line, const json_t *object, double step, uint64_t steps)
{
    char at[SEGMENT_BYTES], loss[SEGMENT_BYTES] = "";
    double value;
    bool bare;

    (void)snprintf(at, sizeof(at), "%.0f/%" PRIu64, step + 1, steps);
    if (number(object, "loss", &value))
        (void)snprintf(loss, sizeof(loss), "%.4f", value);
    else if (not_finite(object, "loss"))
        (void)snprintf(loss, sizeof(loss), "not finite");
    bare = line->width != 0 && strlen("step   loss ") + strlen(at) + strlen(loss) > line->width;
    segment(line, "%s%s", bare ? "" : "step ", at);
    if (loss[0] != '\0')
        segment(line, "%s%s", bare ? "" : "loss ", loss);
}

void ds_console_step_line(const json_t *object, uint64_t steps, double step_ms, unsigned width,
                          struct ds_buf *out)
{
    struct segments line = {.out = out, .width = width};
    double step = 0, value;

    (void)number(object, "step", &step);
    first_segments(&line, object, step, steps);
    if (number(object, "lr", &value))
        segment(&line, "lr %.2e", value);
    if (number(object, "tokens_per_s", &value))
        segment(&line,
                value >= 1e6   ? "%.2fM tok/s"
                : value >= 1e4 ? "%.1fk tok/s"
                               : "%.0f tok/s",
                value >= 1e6   ? value / 1e6
                : value >= 1e4 ? value / 1e3
                               : value);
    if (number(object, "mfu", &value))
        segment(&line, "mfu %.1f%%", 100 * value);
    if (step_ms > 0 && step + 1 <= (double)steps)
        time_segment(&line, ((double)steps - step - 1) * step_ms / 1000);
    if (number(object, "grad_norm", &value))
        segment(&line, "norm %.3g", value);
    else if (not_finite(object, "grad_norm"))
        segment(&line, "norm not finite");
    if (number(object, "skipped", &value) && value > 0)
        segment(&line, "skipped %.0f", value);
}

static unsigned terminal_width(const struct ds_console *console)
{
    struct winsize size;

    if (ioctl(console->args.out_fd, TIOCGWINSZ, &size) != 0 || size.ws_col < 2)
        return WIDTH_DEFAULT - 1;
    return size.ws_col - 1U; /* the last column would wrap */
}

static void draw(struct ds_console *console, const json_t *object)
{
    uint64_t now_ns = ds_clock_mono_ns();
    double step;
    bool last = number(object, "step", &step) && step + 1 >= (double)console->args.steps;

    if (console->live && !last && now_ns < console->drawn_ns + REDRAW_MS * UINT64_C(1000000))
        return;
    console->drawn_ns = now_ns;
    ds_buf_reset(&console->line);
    ds_console_step_line(object, console->args.steps, console->step_ms, terminal_width(console),
                         &console->line);
    put(console, false, CLEAR_LINE, sizeof(CLEAR_LINE) - 1);
    put(console, false, ds_buf_text(&console->line), console->line.len);
    console->live = true;
}

static void smooth(struct ds_console *console, const json_t *object)
{
    double ms;

    if (number(object, "step_ms", &ms))
        console->step_ms = console->steps_seen++ < 2 ? ms : 0.9 * console->step_ms + 0.1 * ms;
}

/* --json: the text itself. */
static void put_json(struct ds_console *console, const char *json, size_t len)
{
    (void)ds_buf_put(&console->out, json, len);
    (void)ds_buf_puts(&console->out, "\n");
    flush(console, false);
}

static void put_loss(const json_t *value, struct ds_buf *out)
{
    if (json_is_number(value))
        (void)ds_buf_printf(out, "%.4f", json_number_value(value));
    else
        (void)ds_buf_puts(out, "not finite");
}

/* "valid loss 2.1234, wiki 2.0123, code 2.2345" */
static void note_valid(struct ds_console *console, json_t *object, double step)
{
    static const char named[] = "valid_loss/";
    struct ds_buf text;
    const char *key;
    json_t *value;

    ds_buf_init(&text, DS_MAX_LINE_BYTES);
    put_loss(json_object_get(object, "valid_loss"), &text);
    json_object_foreach(object, key, value)
    {
        if (strncmp(key, named, sizeof(named) - 1) != 0)
            continue;
        (void)ds_buf_printf(&text, ", %s ", key + sizeof(named) - 1);
        put_loss(value, &text);
    }
    ds_console_note(console, "step %.0f/%" PRIu64 "  valid loss %s", step, console->args.steps,
                    ds_buf_text(&text));
    ds_buf_release(&text);
}

void ds_console_metric(struct ds_console *console, json_t *object, const char *json, size_t len)
{
    double step = 0, loss;

    if (console->args.json) {
        put_json(console, json, len);
        return;
    }
    if (console->args.quiet)
        return;
    (void)number(object, "step", &step);
    if (number(object, "valid_loss", &loss) || not_finite(object, "valid_loss")) {
        note_valid(console, object, step);
        return;
    }
    smooth(console, object);
    if (console->tty) {
        draw(console, object);
        return;
    }
    ds_console_step_line(object, console->args.steps, console->step_ms, 0, &console->out);
    (void)ds_buf_puts(&console->out, "\n");
    flush(console, false);
}

/* Events that a person wants to see, by name. */
void ds_console_event(struct ds_console *console, const json_t *object, const char *json,
                      size_t len)
{
    const char *name = json_string_value(json_object_get(object, "event"));
    const char *text = json_string_value(json_object_get(object, "text"));
    const char *path = json_string_value(json_object_get(object, "path"));
    double step = 0;

    if (console->args.json)
        put_json(console, json, len);
    if (name == NULL)
        return;
    (void)number(object, "step", &step);
    if (strcmp(name, "warning") == 0 && text != NULL)
        ds_console_warn(console, "%s", text);
    else if (strcmp(name, "checkpoint") == 0)
        ds_console_note(console, "step %.0f/%" PRIu64 "  checkpoint saved", step,
                        console->args.steps);
    else if (strcmp(name, "comm") == 0 && text != NULL)
        ds_console_note(console, "step %.0f/%" PRIu64 "  %s", step, console->args.steps, text);
    else if (strcmp(name, "trace") == 0 && path != NULL)
        ds_console_note(console, "step %.0f/%" PRIu64 "  traced, see %s", step, console->args.steps,
                        path);
    else if (strcmp(name, "resumed") == 0 && step > 0)
        ds_console_note(console, "going on from the checkpoint at step %.0f", step);
}
