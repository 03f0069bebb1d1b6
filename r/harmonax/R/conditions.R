# Everything that is signalled on purpose. The engine's tree of errors keeps its names, written as R writes them.

abort <- function(message, kinds = "harmonax_input_error", call = NULL) {
  stop(errorCondition(message, class = unique(c(kinds, "harmonax_error")), call = call))
}

caution <- function(message, kinds = character()) {
  warning(warningCondition(message, class = unique(c(kinds, "harmonax_warning"))))
}

# MissingKeyError: harmonax_missing_key_error.
condition_class <- function(name) {
  if (name == "HarmonaxError") return("harmonax_error")
  paste0("harmonax_", tolower(gsub("([a-z])([A-Z])", "\\1_\\2", name)))
}

# The engine's messages name parameters as the engine does, and values as Python writes them.
in_r_words <- function(message) {
  message <- gsub("=True\\b", " = TRUE", message)
  message <- gsub("=None\\b", " = NULL", message)
  message <- gsub(" \\(--[a-z-]+\\)", "", message)
  message <- gsub("max_iter_harmony", "max_iter", message, fixed = TRUE)
  gsub("tol_harmony", "epsilon.harmony", message, fixed = TRUE)
}

# "did you mean 'x'?" for the closest known name, or what there is.
nearest <- function(name, known) {
  if (length(known) == 0) return("there is none")
  distance <- utils::adist(tolower(name), tolower(known))[1, ]
  best <- which.min(distance)
  if (distance[best] <= max(1, 0.4 * nchar(name))) return(sprintf("did you mean '%s'?", known[best]))
  more <- if (length(known) > 10) sprintf(" and %d more", length(known) - 10L) else ""
  paste0("there is ", paste0("'", utils::head(known, 10), "'", collapse = ", "), more)
}

check_name <- function(name, known, what) {
  if (!is.character(name) || length(name) != 1 || is.na(name)) {
    abort(sprintf("%s must be one name", what))
  }
  if (!name %in% known) {
    abort(sprintf("there is no %s '%s'; %s", what, name, nearest(name, known)),
          c("harmonax_missing_key_error", "harmonax_input_error"))
  }
}

need_package <- function(package) {
  if (!requireNamespace(package, quietly = TRUE)) {
    abort(sprintf("this needs the R package %s, which is not installed", package), "harmonax_missing_package_error")
  }
}
