#' Draw the objective along a run
#'
#' @param x A Seurat object or a SingleCellExperiment after [RunHarmony()], what `RunHarmony(..., return_object = TRUE)`
#'   returned, or the record of a run.
#' @param reduction Of a Seurat object, the reduction that RunHarmony saved.
#'
#' @return A ggplot: the objective after every clustering pass, with the end of every round marked.
#' @export
#' @examples
#' if (harmonax_available() && requireNamespace("ggplot2", quietly = TRUE)) {
#'   pcs <- matrix(rnorm(1000), 200)
#'   fit <- RunHarmony(pcs, rep(c("a", "b"), 100), return_object = TRUE, verbose = FALSE)
#'   HarmonyConvergencePlot(fit)
#' }
HarmonyConvergencePlot <- function(x, reduction = "harmony") {
  need_package("ggplot2")
  record <- run_record(x, reduction)
  passes <- pass_table(record$history)
  if (nrow(passes) == 0) abort("there is nothing to draw: the run had one batch only, and nothing was done")
  ends <- passes[passes$last, ]
  ggplot2::ggplot(passes, ggplot2::aes(x = .data$pass, y = .data$objective)) +
    ggplot2::geom_line(colour = "grey60") +
    ggplot2::geom_point(size = 0.9, colour = "grey60") +
    ggplot2::geom_point(data = ends, size = 2.2, colour = "#0072B2") +
    ggplot2::geom_text(data = ends, ggplot2::aes(label = .data$round), vjust = -1, size = 3, colour = "#0072B2",
                       check_overlap = TRUE) +
    ggplot2::scale_y_continuous(expand = ggplot2::expansion(mult = c(0.05, 0.12))) +
    ggplot2::labs(x = "clustering pass", y = "objective", title = ending(record),
                  caption = "Numbered points: the end of each round, after which cells are corrected.") +
    ggplot2::theme_minimal()
}
utils::globalVariables(".data")

run_record <- function(x, reduction) {
  if (inherits(x, "harmonax_result")) return(x$record)
  if (inherits(x, "SingleCellExperiment")) record <- S4Vectors::metadata(x)$harmonax
  else if (inherits(x, "Seurat")) {
    check_name(reduction, SeuratObject::Reductions(x), "reduction")
    record <- SeuratObject::Misc(x[[reduction]], "harmonax")
  } else record <- x
  if (!is.list(record) || is.null(record$history)) abort("there is no record of a run of RunHarmony here")
  record
}

pass_table <- function(history) {
  objective <- as.numeric(unlist(history$objective_passes))
  rounds <- as.integer(unlist(history$passes))
  data.frame(pass = seq_along(objective), objective = objective, round = rep(seq_along(rounds), rounds),
             last = seq_along(objective) %in% cumsum(rounds))
}

ending <- function(record) {
  rounds <- length(unlist(record$history$passes))
  word <- if (rounds == 1) "round" else "rounds"
  if (record$status == "converged") return(sprintf("Harmony converged after %d %s", rounds, word))
  sprintf("Harmony stopped at max_iter, after %d %s", rounds, word)
}
