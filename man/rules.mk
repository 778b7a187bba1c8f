# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A page is prose (man/*.in) with the tables of the code set in by tools/mangen.c, so the manual
# cannot disagree with the program about a command, an option, an exit code or a key.

MANPAGES := $(addprefix $(B)/man/,dsrun.1 dsrun-exec.1 dsrun-generate.1 dsrun-hosts.1 dsrun-join.1 dsrun-launch.1 \
    dsrun-job.5 dsrun-hostfile.5 dsrun-slurm.7 dsrun-wire.7)

man: $(MANPAGES) ## make the manual pages: man -l build/man/dsrun.1

$(B)/tools/mangen: $(B)/tools/mangen.o $(call LIB,cli job base)
	$(call say,LINK    $@)
	$(Q)$(LINK) -lyaml -lxxhash -lm $(LDLIBS)
-include $(B)/tools/mangen.d

$(B)/man/%: man/%.in $(B)/tools/mangen
	$(Q)mkdir -p $(@D)
	$(call say,MAN     $@)
	$(Q)$(B)/tools/mangen < $< > $@
