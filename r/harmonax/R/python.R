# Finding Python, and harmonax in it.

ENVIRONMENT <- "r-harmonax"

# The Python side, loaded once a session.
engine <- function() {
  if (is.null(the$python)) the$python <- load_engine()
  the$python
}

load_engine <- function() {
  choose_python()
  started <- tryCatch(reticulate::py_available(initialize = TRUE), error = function(e) conditionMessage(e))
  if (!isTRUE(started)) {
    abort(paste0("Python cannot be started", if (is.character(started)) paste0(" (", trimws(started), ")"),
                 "; run harmonax_install(), or name a Python that has harmonax in the environment variable ",
                 "RETICULATE_PYTHON before R starts"),
          c("harmonax_python_missing", "harmonax_python_error"))
  }
  import_engine()
}

import_engine <- function() {
  tryCatch(
    reticulate::import_from_path("harmonax_r", system.file("python", package = "harmonax"), convert = FALSE),
    error = function(e) {
      reason <- trimws(strsplit(conditionMessage(e), "\n")[[1]][1])
      abort(sprintf(paste("harmonax cannot be loaded by the Python at %s (%s); run harmonax_install() and start R anew,",
                          "or name a Python that has it in the environment variable RETICULATE_PYTHON"),
                    reticulate::py_config()$python, reason),
            c("harmonax_engine_missing", "harmonax_python_error"))
    }
  )
}

# What the user has chosen goes first; then the environment of harmonax_install().
choose_python <- function() {
  chosen <- nzchar(Sys.getenv("RETICULATE_PYTHON")) || reticulate::py_available()
  if (!chosen && environment_exists(ENVIRONMENT)) reticulate::use_virtualenv(ENVIRONMENT, required = TRUE)
}

environment_exists <- function(envname) {
  tryCatch(reticulate::virtualenv_exists(envname), error = function(e) FALSE)
}

#' Is the engine there?
#'
#' @return `TRUE` where Python and its package harmonax can be loaded, else `FALSE`, with the reason in the attribute
#'   `reason`.
#' @export
#' @examples
#' harmonax_available()
harmonax_available <- function() {
  tryCatch({
    engine()
    TRUE
  }, harmonax_error = function(e) structure(FALSE, reason = conditionMessage(e)))
}

#' Install the engine
#'
#' Finds a Python of version 3.11 or later, makes a virtual environment, and installs the Python package harmonax into
#' it. Where the Python in use has harmonax already, nothing is done. To use another environment, name its Python in the
#' environment variable `RETICULATE_PYTHON` before R starts.
#'
#' @param envname Name or path of the environment. [RunHarmony()] looks for `"r-harmonax"` by itself.
#' @param python Python to make it with; `NULL`: the first one that is recent enough.
#' @param source What to install: a name and version for the package index, a wheel, or the path of a checkout.
#' @param force Install also where harmonax is there already.
#'
#' @return The path of the environment's Python, invisibly.
#' @export
#' @examples
#' \dontrun{
#' harmonax_install()
#' harmonax_install(source = "path/to/checkout")
#' }
harmonax_install <- function(envname = ENVIRONMENT, python = NULL, source = "harmonax", force = FALSE) {
  if (!force && harmonax_usable()) {
    message("harmonax is there already, in ", reticulate::py_config()$python)
    return(invisible(reticulate::py_config()$python))
  }
  if (file.exists(source)) source <- normalizePath(source)
  with_own_libraries({
    if (!environment_exists(envname)) reticulate::virtualenv_create(envname, python = recent_python(python))
    reticulate::virtualenv_install(envname, packages = source)
  })
  path <- reticulate::virtualenv_python(envname)
  if (reticulate::py_available()) message("Python runs already in this session: start R anew to use ", path)
  else reticulate::use_virtualenv(envname, required = TRUE)
  invisible(path)
}

# Without starting a Python where none was chosen: it would be that of the session.
harmonax_usable <- function() {
  chosen <- nzchar(Sys.getenv("RETICULATE_PYTHON")) || reticulate::py_available() || environment_exists(ENVIRONMENT)
  chosen && isTRUE(harmonax_available())
}

recent_python <- function(python = NULL) {
  candidates <- if (is.null(python)) c("python3", "python3.13", "python3.12", "python3.11", "python") else python
  for (candidate in Sys.which(candidates)) {
    if (nzchar(candidate) && is_recent(candidate)) return(unname(candidate))
  }
  abort(sprintf("%s is not Python 3.11 or later; install one from https://www.python.org or name it: %s",
                paste(candidates, collapse = ", "), "harmonax_install(python = \"path/to/python\")"),
        c("harmonax_python_missing", "harmonax_python_error"))
}

# R puts its libraries' folders and the system's before all others. A Python with an OpenSSL of its own then finds the
# system's, and cannot reach a package index.
with_own_libraries <- function(expr) {
  before <- Sys.getenv("LD_LIBRARY_PATH", NA)
  if (is.na(before)) return(expr)
  on.exit(Sys.setenv(LD_LIBRARY_PATH = before))
  folders <- strsplit(before, ":", fixed = TRUE)[[1]]
  Sys.setenv(LD_LIBRARY_PATH = paste(folders[!grepl(paste0("^(", R.home(), "|/usr/lib|/lib)"), folders)], collapse = ":"))
  expr
}

is_recent <- function(python) {
  code <- "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
  status <- suppressWarnings(system2(python, c("-c", shQuote(code)), stdout = FALSE, stderr = FALSE))
  identical(status, 0L)
}
