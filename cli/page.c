/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * page.c - the page itself; the contract is in page.h.
 */
#include "cli/page.h"

#include <string.h>

#include "cli/page_plot.h"
#include "cli/page_text.h"
#include "cli/size.h"

static const struct {
    const char *title;
    unsigned group;
} metrics[] = {
#define X(id, key, title, group) {title, group},
    DS_PAGE_METRICS(X)
#undef X
};

/* Nothing may be loaded, whatever a text of the run should smuggle in. */
static const char head[] =
    DS_PAGE_HEAD "<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
                 "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                 "style-src 'unsafe-inline'\"/>\n"
                 "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
                 "<meta name=\"color-scheme\" content=\"light dark\"/>\n";

static const char style[] =
    "<style>\n"
    ":root { --back: #fff; --text: #1a1a1a; --dim: #5a5a5a; --grid: #ddd; --c0: #0b5cad; --c1: "
    "#b34700;\n"
    "  --good: #176b2c; --bad: #a11212; }\n"
    "@media (prefers-color-scheme: dark) { :root { --back: #16181b; --text: #e6e6e6; --dim: "
    "#a5a8ad;\n"
    "  --grid: #383b40; --c0: #6cb4ff; --c1: #ffab6b; --good: #7fd694; --bad: #ff8f8f; } }\n"
    "body { background: var(--back); color: var(--text); font: 16px/1.45 system-ui, sans-serif;\n"
    "  max-width: 60rem; margin: 1.5rem auto; padding: 0 1rem; }\n"
    "h1 { margin-bottom: 0.2rem; overflow-wrap: anywhere; } h2 { margin: 2rem 0 0.3rem; font-size: "
    "1.15rem; }\n"
    "p, dd { overflow-wrap: anywhere; }\n"
    "dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.1rem 1.2rem; }\n"
    "dt { color: var(--dim); } dd { margin: 0; }\n"
    ".good { color: var(--good); } .bad { color: var(--bad); } .note { color: var(--dim); }\n"
    "table { border-collapse: collapse; font-size: 0.9rem; } th { text-align: left; color: "
    "var(--dim); }\n"
    "th, td { padding: 0.1rem 0.9rem 0.1rem 0; vertical-align: top; overflow-wrap: anywhere; }\n"
    "pre { overflow-x: auto; font-size: 0.85rem; border-left: 3px solid var(--grid); padding-left: "
    "0.8rem; }\n"
    "svg { width: 100%; height: auto; display: block; } summary { color: var(--dim); cursor: "
    "pointer; }\n"
    ".tick { fill: var(--dim); font-size: 12px; } .grid { stroke: var(--grid); }\n"
    ".line, .mark { fill: none; stroke: var(--c0); stroke-width: 1.5; stroke-linejoin: round; "
    "stroke-linecap: round; }\n"
    ".line.c1 { stroke: var(--c1); } .name { fill: var(--c0); font-size: 13px; } .name.c1 { fill: "
    "var(--c1); }\n"
    ".mark { stroke-width: 2; } .wrong { stroke: var(--bad); }\n"
    "@media print { :root { --back: #fff; --text: #000; --dim: #444; --grid: #ccc; --c0: #0b5cad; "
    "--c1: #b34700; }\n"
    "  body { max-width: none; font-size: 11pt; } section { break-inside: avoid; } pre { "
    "white-space: pre-wrap; } }\n"
    "</style>\n";

/* --- the top --------------------------------------------------------------------------------- */

static void put_fact(struct ds_buf *out, const char *name, const char *fmt, ...) DS_PRINTF(3, 4);

static void put_fact(struct ds_buf *out, const char *name, const char *fmt, ...)
{
    char text[2 * DS_MAX_PATH];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    ds_buf_printf(out, "<dt>%s</dt><dd>", name);
    ds_page_puts(out, text);
    ds_buf_puts(out, "</dd>\n");
}

static void put_numbers(struct ds_buf *out, const struct ds_page *page)
{
    const struct ds_series *loss = &page->metric[DS_PAGE_LOSS];
    char number[DS_NUMBER_TEXT], best[DS_NUMBER_TEXT];

    if (page->has_metrics && page->steps > 0)
        put_fact(out, "steps", "%ju of %ju", (uintmax_t)page->made, (uintmax_t)page->steps);
    if (page->tokens > 0)
        put_fact(out, "tokens", "%s", ds_number_text((double)page->tokens, 4, number));
    if (loss->count > 0)
        put_fact(out, "loss", "%s, nats per token", ds_number_text(loss->last, 5, number));
    if (page->metric[DS_PAGE_VALID].count > 0)
        put_fact(out, "validation loss", "%s, the least %s after %ju steps",
                 ds_number_text(page->metric[DS_PAGE_VALID].last, 5, number),
                 ds_number_text(page->best_valid, 5, best), (uintmax_t)page->best_step);
    for (size_t i = 0; i < page->names; i++)
        put_fact(out, i == 0 ? "of each set" : "", "%s %s, the least %s after %ju steps",
                 page->named[i].name, ds_number_text(page->named[i].loss.last, 5, number),
                 ds_number_text(page->named[i].best, 5, best), (uintmax_t)page->named[i].best_step);
    if (page->more_names > 0)
        put_fact(out, "", "%zu more are in metrics.jsonl", page->more_names);
    if (page->skipped > 0)
        put_fact(out, "skipped", "%ju updates", (uintmax_t)page->skipped);
    if (page->not_finite > 0)
        put_fact(out, "not finite", "the loss of %ju steps", (uintmax_t)page->not_finite);
}

static void put_top(struct ds_buf *out, const struct ds_page *page, const char *run_dir)
{
    char why[DS_PAGE_WHY], text[DS_NUMBER_TEXT], until[DS_NUMBER_TEXT];
    const char *state = ds_page_state(page, why);
    bool bad = strcmp(state, "failed") == 0 || strcmp(state, "broken off") == 0;

    ds_buf_puts(out, "<header><h1>");
    ds_page_puts(out, page->name[0] == '\0' ? run_dir : page->name);
    ds_buf_printf(out, "</h1>\n<p class=\"%s\"><strong>%s</strong> ", bad ? "bad" : "good", state);
    ds_page_puts(out, why);
    ds_buf_puts(out, "</p>\n<dl>\n");
    put_numbers(out, page);
    put_fact(out, "time", "%s, from %s to %s UTC", ds_duration_text(page->ran_s, until),
             ds_time_text(page->first_s, text),
             ds_time_text(page->last_s, (char[DS_NUMBER_TEXT]){0}));
    if (page->ranks > 0)
        put_fact(out, "ranks", "%ju on %ju host%s", (uintmax_t)page->ranks, (uintmax_t)page->hosts,
                 page->hosts == 1 ? "" : "s");
    if (page->failures > 0 || page->restarts > 0)
        put_fact(out, "failures", "%ju, restarts %ju", (uintmax_t)page->failures,
                 (uintmax_t)page->restarts);
    put_fact(out, "run directory", "%s", run_dir);
    ds_buf_puts(out, "</dl>\n");
    if (page->header.len > 0) {
        ds_buf_puts(out, "<pre>");
        ds_page_text(out, page->header.data, page->header.len);
        ds_buf_puts(out, "</pre>\n");
    }
    ds_buf_puts(out, "</header>\n");
}

/* --- plots ----------------------------------------------------------------------------------- */

static void put_plot(struct ds_buf *out, const struct ds_page *page, unsigned group)
{
    struct ds_plot_line line[2];
    const char *title = "";
    size_t lines = 0;
    uint64_t points = 0;
    char id[16];

    for (size_t i = 0; i < DS_PAGE_METRIC_COUNT; i++) {
        if (metrics[i].group != group)
            continue;
        title = lines == 0 ? metrics[i].title : title;
        line[lines++] = (struct ds_plot_line){&page->metric[i], metrics[i].title, false};
        points += page->metric[i].count;
    }
    if (points == 0)
        return;
    (void)snprintf(id, sizeof(id), "plot%u", group);
    ds_buf_printf(out, "<section><h2>%s</h2>\n", title);
    ds_plot_lines(out, id, title, line, lines);
    ds_plot_table(out, line, lines);
    ds_buf_puts(out, "</section>\n");
}

/* Named evaluations, each with an axis of its own. */
static void put_named(struct ds_buf *out, const struct ds_page *page)
{
    for (size_t i = 0; i < page->names; i++) {
        const struct ds_plot_line line = {&page->named[i].loss, "validation loss", false};
        char id[32], name[8 * DS_MAX_NAME];
        struct ds_buf escaped;

        (void)snprintf(id, sizeof(id), "named%zu", i);
        ds_buf_init(&escaped, sizeof(name));
        ds_page_puts(&escaped, page->named[i].name);
        (void)snprintf(name, sizeof(name), "validation loss: %s", ds_buf_text(&escaped));
        ds_buf_release(&escaped);
        ds_buf_printf(out, "<section><h2>%s</h2>\n", name);
        ds_plot_lines(out, id, name, &line, 1);
        ds_plot_table(out, &line, 1);
        ds_buf_puts(out, "</section>\n");
    }
}

static void put_plots(struct ds_buf *out, const struct ds_page *page)
{
    uint64_t dropped = 0;

    put_plot(out, page, 0);
    put_named(out, page);
    for (unsigned group = 1; group <= metrics[DS_PAGE_METRIC_COUNT - 1].group; group++)
        put_plot(out, page, group);
    for (size_t i = 0; i < DS_PAGE_METRIC_COUNT; i++)
        dropped += page->metric[i].dropped;
    if (page->damaged > 0 || dropped > 0)
        ds_buf_printf(out,
                      "<p class=\"note\">Of %ju lines of metrics.jsonl %ju are damaged and left "
                      "out, and %ju numbers "
                      "of steps before the first.</p>\n",
                      (uintmax_t)page->lines, (uintmax_t)page->damaged, (uintmax_t)dropped);
    if (!page->has_metrics && !page->program)
        ds_buf_puts(out,
                    "<p class=\"note\">There is no metrics.jsonl: log.sinks has no jsonl.</p>\n");
}

/* --- events ---------------------------------------------------------------------------------- */

static void put_event(struct ds_buf *out, const struct ds_page_event *event)
{
    char time[DS_NUMBER_TEXT];

    ds_buf_printf(out, "<tr><td>%s</td><td>%s</td><td>", ds_time_text(event->time, time),
                  ds_page_kind(event->kind));
    ds_page_puts(out, event->detail);
    ds_buf_puts(out, "</td></tr>\n");
}

static void put_events(struct ds_buf *out, const struct ds_page *page)
{
    struct ds_plot_line line[DS_PAGE_KINDS];
    const struct ds_page_event *event;

    if (page->told == 0)
        return;
    for (int i = 0; i < DS_PAGE_KINDS; i++)
        line[i] = (struct ds_plot_line){&page->mark[i], ds_page_kind(i), ds_page_is_bad(i)};
    ds_buf_puts(out, "<section><h2>events</h2>\n");
    ds_plot_marks(out, "events", "events over time", line, DS_PAGE_KINDS);
    ds_buf_puts(
        out,
        "<details><summary>as a table</summary><table><thead><tr><th scope=\"col\">UTC</th>"
        "<th scope=\"col\">event</th><th scope=\"col\">what it says</th></tr></thead><tbody>\n");
    for (size_t i = 0; (event = ds_page_event(page, i)) != NULL; i++) {
        if (i == DS_PAGE_FIRST && page->told > DS_PAGE_FIRST + DS_PAGE_LAST)
            ds_buf_printf(out, "<tr><td colspan=\"3\">%ju more are in events.jsonl</td></tr>\n",
                          (uintmax_t)(page->told - DS_PAGE_FIRST - DS_PAGE_LAST));
        put_event(out, event);
    }
    ds_buf_puts(out, "</tbody></table></details>\n");
    if (page->damaged_events > 0)
        ds_buf_printf(
            out,
            "<p class=\"note\">Of %ju lines of events.jsonl %ju are damaged and left out.</p>\n",
            (uintmax_t)page->events, (uintmax_t)page->damaged_events);
    ds_buf_puts(out, "</section>\n");
}

/* --- checkpoints and the job ----------------------------------------------------------------- */

static void put_ckpt(struct ds_buf *out, const struct ds_page_ckpt *ckpt)
{
    char size[DS_SIZE_TEXT];

    ds_buf_printf(out, "<tr><td>%ju</td>", (uintmax_t)ckpt->step);
    if (ckpt->whole) {
        ds_buf_printf(out, "<td>%s</td><td>%zu</td><td>%u</td><td>%u</td><td>whole</td></tr>\n",
                      ds_size_text(ckpt->info.bytes, size), ckpt->info.parts,
                      ckpt->info.state.world, ckpt->info.state.stage);
        return;
    }
    ds_buf_puts(out, "<td/><td/><td/><td/><td class=\"bad\">damaged: ");
    ds_page_puts(out, ckpt->why);
    ds_buf_puts(out, "</td></tr>\n");
}

static void put_ckpts(struct ds_buf *out, const struct ds_page *page)
{
    if (page->ckpts == 0)
        return;
    ds_buf_puts(
        out, "<section><h2>checkpoints</h2>\n<table><thead><tr><th scope=\"col\">step</th>"
             "<th scope=\"col\">size</th><th scope=\"col\">parts</th><th scope=\"col\">ranks</th>"
             "<th scope=\"col\">ZeRO</th><th scope=\"col\">state</th></tr></thead><tbody>\n");
    for (size_t i = 0; i < page->ckpts; i++)
        put_ckpt(out, &page->ckpt[i]);
    if (page->all_ckpts > page->ckpts)
        ds_buf_printf(out, "<tr><td colspan=\"6\">%zu older ones</td></tr>\n",
                      page->all_ckpts - page->ckpts);
    ds_buf_puts(out, "</tbody></table>\n<p class=\"note\">Sizes and manifests were compared; "
                     "'dsrun ckpt verify' reads "
                     "every byte.</p></section>\n");
}

static void put_job(struct ds_buf *out, const struct ds_page *page)
{
    ds_buf_puts(out, "<section><h2>job.yaml</h2>\n");
    if (page->job.len == 0) {
        ds_buf_puts(out, "<p class=\"note\">There is none that can be read.</p>");
    } else {
        ds_buf_puts(out, "<pre>");
        ds_page_text(out, page->job.data, page->job.len);
        ds_buf_puts(out, "</pre>");
    }
    ds_buf_puts(out, "</section>\n");
}

void ds_page_write(const struct ds_page *page, const char *run_dir, double now_s,
                   struct ds_buf *out)
{
    char time[DS_NUMBER_TEXT];

    ds_buf_puts(out, head);
    ds_buf_puts(out, "<title>");
    ds_page_puts(out, page->name[0] == '\0' ? run_dir : page->name);
    ds_buf_puts(out, "</title>\n");
    ds_buf_puts(out, style);
    ds_buf_puts(out, "</head>\n<body>\n");
    put_top(out, page, run_dir);
    ds_buf_puts(out, "<main>\n");
    put_plots(out, page);
    put_events(out, page);
    put_ckpts(out, page);
    if (!page->program)
        put_job(out, page);
    ds_buf_printf(
        out,
        "</main>\n<footer><p class=\"note\">dsrun report, %s UTC</p></footer>\n</body>\n</html>\n",
        ds_time_text(now_s, time));
}
