# The R side of r_overhead.py, which starts it: measure RunHarmony and leave its result as doubles.
arguments <- commandArgs(trailingOnly = TRUE)
option <- function(name) arguments[match(paste0("--", name), arguments) + 1]
folder <- option("folder")
n <- as.integer(option("cells"))
threads <- as.integer(option("threads"))
library(harmonax)

cells <- paste0("cell", seq_len(n))
Z <- matrix(readBin(file.path(folder, "Z.bin"), "double", n * 50L), n, dimnames = list(cells, paste0("PC_", 1:50)))
codes <- readBin(file.path(folder, "codes.bin"), "integer", n)
meta <- data.frame(batch = factor(codes, levels = 0:9), row.names = cells)
run <- function(Z, meta) {
  RunHarmony(Z, meta, "batch", nclust = 100, max_iter = 5, early_stop = FALSE, ncores = threads, rng = 0, verbose = FALSE,
             .options = harmony_options(max.iter.cluster = 4, epsilon.cluster = -Inf))
}
# That a run of equal rounds stops at its limit is meant.
quietly <- function(expr) withCallingHandlers(expr, harmonax_not_converged = function(w) invokeRestart("muffleWarning"))
small <- quietly(run(Z[1:2000, ], meta[1:2000, , drop = FALSE]))
touched <- numeric(as.numeric(option("touch")) * 2^27)
rm(touched)
invisible(gc())
spent <- system.time(corrected <- quietly(run(Z, meta)), gcFirst = FALSE)
stopifnot(identical(dimnames(corrected), dimnames(Z)))
status <- tryCatch(readLines("/proc/self/status"), error = function(e) character())
peak <- sub("^VmHWM:\\s*(\\d+) kB", "\\1", grep("^VmHWM", status, value = TRUE))
writeBin(as.vector(corrected), file.path(folder, "R.bin"))
cat(sprintf('{"wall": %.3f, "cpu": %.3f, "peak": %s}\n', spent[["elapsed"]], spent[["user.self"]] + spent[["sys.self"]],
            if (length(peak)) peak else "0"))
