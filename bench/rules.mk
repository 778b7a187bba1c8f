# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# rules.mk - the benches.  The peers are built where their libraries are there, else left out.
BENCH_BIN := $(B)/bench/adamw $(B)/bench/ckpt

$(B)/bench/adamw: $(B)/bench/adamw.o $(call LIB,cpu ops base)
$(B)/bench/ckpt: $(B)/bench/ckpt.o $(call LIB,ckpt plan job ops base)
$(B)/bench/ckpt: BENCH_LIBS = $(LIBS_worker)
$(B)/bench/adamw: BENCH_LIBS = $(LIBS_worker)
$(BENCH_BIN):
	$(call say,LINK    $@)
	$(Q)$(LINK) $(BENCH_LIBS) $(LDLIBS)
-include $(addsuffix .d,$(BENCH_BIN) $(B)/bench/floor)

bench-peers: $(B)/bench/floor.o $(call LIB,base)
	$(Q)$(CC) -o $(B)/bench/floor $^ -lopenblas 2>/dev/null || \
	    echo '  no OpenBLAS to link: the matrix-product floor is left out (package libopenblas-dev)'
	$(Q)if echo '#include <mpi.h>' | mpicc -x c -fsyntax-only - 2>/dev/null; then \
	    mpicc -O2 -std=c11 -o $(B)/bench/mpi_comm bench/peers/mpi_comm.c; \
	else echo '  no mpicc or no mpi.h: MPI is left out (package libopenmpi-dev)'; fi
	$(Q)/usr/bin/python3 -c 'import torch' 2>/dev/null || \
	    echo '  no PyTorch: it is left out (packages python3-torch libopenblas0-openmp)'

bench: all $(BENCH_BIN) bench-peers ## measure against PyTorch, gloo, MPI and the matrix products
	$(Q)python3 bench/run.py --build $(B)

bench-quick: all $(BENCH_BIN) bench-peers ## the same in under two minutes: fewer rounds
	$(Q)python3 bench/run.py --build $(B) --quick

bench-launch: all ## start `true` on 2, 16 and 64 hosts of a test bed, against pdsh, mpirun and ssh; root
	$(Q)tools/deps hosts && python3 bench/launch.py --build $(B) && python3 bench/first_step.py --build $(B)

.PHONY: bench bench-quick bench-launch bench-peers
