# Batch columns as the engine reads them: codes and levels, or numbers, in R's memory.

batch_columns <- function(meta_data, vars_use, missing = "error", cells = NULL) {
  if (!is.character(vars_use) || length(vars_use) == 0) abort("name at least one batch column")
  lapply(unique(vars_use), function(name) {
    check_name(name, names(meta_data), "column")
    column <- meta_data[[name]]
    if (!is.atomic(column) || length(column) != NROW(column)) abort(sprintf("column '%s' is not a vector", name))
    check_missing(column, name, missing, cells)
    batch_column(column, name)
  })
}

# The batch columns, and after them those of options$protect and $covariates, which the engine tells apart by name.
all_columns <- function(meta_data, vars_use, options, cells = NULL) {
  both <- intersect(vars_use, options$protect)
  if (length(both)) abort(sprintf("protect: '%s' is a batch column: what it explains is removed", both[1]))
  columns <- batch_columns(meta_data, vars_use, options$missing, cells)
  if (!is.null(options$protect)) {
    columns <- c(columns, batch_columns(meta_data, options$protect, options$missing, cells))
  }
  c(columns, numeric_columns(meta_data, options$covariates, c(vars_use, options$protect), cells))
}

numeric_columns <- function(meta_data, names, others, cells) {
  lapply(unique(names), function(name) {
    check_name(name, names(meta_data), "column")
    if (name %in% others) abort(sprintf("covariates: '%s' is a batch column, or protected", name))
    column <- meta_data[[name]]
    if (!is.numeric(column) || is.factor(column)) {
      abort(sprintf("covariate '%s' is of class %s; covariates are numbers", name, class(column)[1]))
    }
    bad <- which(!is.finite(column))
    if (length(bad)) {
      abort(sprintf("covariate '%s' has %d values that are missing or infinite (first: %s); drop or repair those cells",
                    name, length(bad), cell_name(bad[1], cells)))
    }
    batch_column(column, name)
  })
}

check_missing <- function(column, name, missing, cells) {
  if (identical(missing, "level") || !anyNA(if (is.factor(column)) levels(column)[column] else column)) return()
  gaps <- is.na(if (is.factor(column)) as.character(column) else column)
  first <- which(gaps)[1]
  abort(sprintf("column '%s' has %d missing values (first: %s); fill them, drop those cells, or pass missing = \"level\"",
                name, sum(gaps), cell_name(first, cells)))
}

cell_name <- function(i, cells) if (is.null(cells)) sprintf("row %d", i) else sprintf("cell '%s'", cells[i])

# `values` is kept so that R does not free what `address` points to.
batch_column <- function(column, name) {
  levels <- NULL
  if (is.factor(column) || is.character(column) || is.logical(column)) {
    column <- as_factor(column)
    levels <- as.list(levels(column))
    values <- as.integer(column)
  } else if (is.numeric(column)) {
    values <- as.vector(column)
    # The engine would not know R's NA of integers.
    if (is.integer(values) && anyNA(values)) values <- as.numeric(values)
    else if (is.double(values) && all(is.finite(values)) && all(values == trunc(values)) &&
             max(abs(values)) < .Machine$integer.max) values <- as.integer(values)
  } else {
    abort(sprintf("column '%s' is of class %s; batches are factors, text, numbers or logical", name, class(column)[1]))
  }
  list(name = name, address = .Call(C_address, values), size = length(values), real = is.double(values),
       levels = levels, values = values)
}

# Levels of text sorted by code point, as Python sorts them, not by the session's language: the order decides the bits.
as_factor <- function(column) {
  if (is.factor(column)) return(if (anyNA(levels(column))) factor(column, exclude = NA) else column)
  if (is.logical(column)) return(factor(column, levels = c(FALSE, TRUE)))
  column <- enc2utf8(column)
  factor(column, levels = sort(unique(column), method = "radix"))
}
