#' Batch correction of single-cell data with Harmony and Harmony2
#'
#' [RunHarmony()] corrects an embedding of a Seurat object, a SingleCellExperiment or a matrix. The engine is the Python
#' package harmonax, which [harmonax_install()] sets up.
#'
#' @section Conditions:
#' Errors are of class `harmonax_error`; those about what was passed also of `harmonax_input_error`, those about a column
#' or reduction that is not there of `harmonax_missing_key_error`, those about Python or its harmonax of
#' `harmonax_python_error`. Warnings are of class `harmonax_warning`; `harmonax_not_converged` is one.
#'
#' @useDynLib harmonax, .registration = TRUE
#' @keywords internal
"_PACKAGE"

# What is kept for the session: the Python side, once it is loaded.
the <- new.env(parent = emptyenv())
