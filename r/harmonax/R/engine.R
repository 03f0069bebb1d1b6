# The call into Python. Only addresses are passed, so that no copy of the embedding is made for it.

# Correct an embedding, cells x dimensions or, with `across`, dimensions x cells.
# Returns the corrected embedding (cells x dimensions), the record, and the Python result if it is kept.
correct <- function(Z, columns, options, across = FALSE, verbose = TRUE, keep = FALSE, cells = NULL) {
  python <- engine()
  if (!is.double(Z)) storage.mode(Z) <- "double"
  check_values(Z, across, cells)
  shape <- if (across) rev(dim(Z)) else dim(Z)
  place <- list(data = .Call(C_address, Z), n_cells = shape[1], n_features = shape[2], across = across)
  crossing <- lapply(columns, function(column) column[c("name", "address", "size", "real", "levels")])
  progress <- if (verbose) function(line) message(line)
  outcome <- python$correct(place, crossing, options, progress, keep)
  record <- settle(outcome)
  target <- .Call(C_new_matrix, shape[1], shape[2])
  settle(python$deliver(outcome, .Call(C_address, target), place))
  dimnames(target) <- list(cells, if (across) rownames(Z) else colnames(Z))
  summary <- in_r_words(reticulate::py_to_r(outcome$summary))
  report_end(summary, reticulate::py_to_r(outcome$converged), record$status, verbose)
  list(embedding = target, record = record, summary = summary, python = if (keep) outcome$result)
}

# Signal the warnings and the error of the other side, if any, and return the record.
settle <- function(outcome) {
  for (warned in reticulate::py_to_r(outcome$warnings)) caution(in_r_words(warned))
  error <- reticulate::py_to_r(outcome$error)
  if (!is.null(error)) {
    kinds <- vapply(reticulate::py_to_r(outcome$kinds), condition_class, "")
    abort(in_r_words(error), c(unname(kinds), "harmonax_error"))
  }
  reticulate::py_to_r(outcome$record)
}

# A run that stopped at its limit is always reported, as by R's own iterative fits.
report_end <- function(summary, converged, status, verbose) {
  if (!converged) caution(paste("Harmony:", summary), "harmonax_not_converged")
  else if (verbose && status == "converged") message("Harmony: ", summary)
}

# One sum settles it without a copy: NaN and infinity pass through. Here, since the engine does not know the cells' names.
check_values <- function(Z, across, cells) {
  if (is.finite(sum(Z))) return()
  bad <- which(!is.finite(if (across) colSums(Z) else rowSums(Z)))
  if (length(bad) == 0) return()
  abort(sprintf("the embedding has NaN or infinite values in %d cells (first: %s); remove or repair them",
                length(bad), cell_name(bad[1], cells)))
}

# An integer that the session's generator decides, so that set.seed() does.
draw_seed <- function() sample.int(.Machine$integer.max, 1L)

seeded <- function(options) {
  if (is.null(options$rng)) {
    options$rng <- draw_seed()
    options$drawn <- TRUE
  } else {
    rng <- options$rng
    whole <- is.numeric(rng) && length(rng) == 1 && is.finite(rng) && rng == trunc(rng) && rng >= 0 && rng < 2^31
    if (!whole) abort("rng must be a whole number from 0 to 2147483647, or NULL for one that set.seed() decides")
    options$rng <- as.integer(rng)
  }
  options
}
