# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# Warnings and hardening.  Each flag is probed, so that an older or newer compiler builds with
# what it has; -Werror comes with WERROR=1 only.  SAN=address,undefined|thread makes a sanitizer
# build: FORTIFY and -fno-strict-overflow are left out there, they blind the sanitizers.

WARNINGS := -Wall -Wextra -Wpedantic -Wformat=2 -Wformat-overflow=2 -Wformat-truncation=1 \
    -Wformat-signedness -Wconversion -Wsign-conversion -Warith-conversion -Wshadow -Wundef \
    -Wcast-align=strict -Wcast-qual -Wstrict-prototypes -Wmissing-prototypes \
    -Wold-style-definition -Wnull-dereference -Wdouble-promotion -Wvla -Walloca -Walloc-zero \
    -Wduplicated-cond -Wduplicated-branches -Wlogical-op -Wimplicit-fallthrough=5 \
    -Wunused-macros -Wredundant-decls -Wjump-misses-init -Warray-bounds=2 \
    -Wuse-after-free=3 -Wstringop-overflow=4 -Wdate-time -Wtrampolines -Wbidi-chars=any \
    -Werror=format-security -Werror=implicit -Werror=int-conversion \
    -Werror=incompatible-pointer-types

HARDENING := -fstack-protector-strong -fstack-clash-protection -fcf-protection=full -mbranch-protection=standard \
    -fno-delete-null-pointer-checks -fno-strict-aliasing -ftrivial-auto-var-init=zero \
    -fzero-call-used-regs=used-gpr -fno-common -fvisibility=hidden -fexceptions

LINKING := -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack -Wl,-z,separate-code -Wl,--as-needed \
    -Wl,--no-copy-dt-needed-entries

# -Wformat-truncation stays at 1: level 2 complains of calls whose result is checked, too.

# One compiler run per flag, remembered in build/ by compiler and list.
PROBE_KEY  := $(shell echo '$(CC) $(WARNINGS) $(HARDENING)' | cksum | cut -d' ' -f1)
PROBE_FILE := $(B)/probe-$(PROBE_KEY)
PROBED := $(shell mkdir -p $(B); test -s $(PROBE_FILE) || { \
    for f in $(WARNINGS) $(HARDENING); do \
        echo 'int ds_probe;' | $(CC) -Werror $$f -x c -c -o /dev/null - >/dev/null 2>&1 && printf '%s ' $$f; \
    done > $(PROBE_FILE).$$$$; mv $(PROBE_FILE).$$$$ $(PROBE_FILE); }; cat $(PROBE_FILE))

# -O2 -g is the default that the user's CFLAGS, which stand last, may change; kernels add -O3.
# A process that becomes another program must write down its coverage before; in strict C gcc does not
# see to that by itself.
DS_CPPFLAGS := $(if $(COVERAGE),-Dexecve=__gcov_execve) $(if $(SAN)$(COVERAGE)$(filter -O0,$(CFLAGS)),,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3)
DS_CFLAGS   := -std=c11 -O2 -g -fPIE -ffile-prefix-map=$(CURDIR)=. $(PROBED) \
    $(if $(WERROR),-Werror) \
    $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer,-fno-strict-overflow) \
    $(if $(COVERAGE),--coverage -fprofile-update=atomic -fprofile-abs-path)
DS_LDFLAGS  := $(LINKING) $(if $(SAN),-fsanitize=$(SAN)) $(if $(COVERAGE),--coverage -u __gcov_dump)
