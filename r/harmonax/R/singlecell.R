#' @rdname RunHarmony
#' @export
RunHarmony.SingleCellExperiment <- function(object, group.by.vars, dims.use = NULL, verbose = TRUE,
                                            reduction.save = "HARMONY", reduction.use = "PCA", theta = NULL,
                                            sigma = 0.1, lambda = NULL, nclust = NULL, max_iter = 10,
                                            early_stop = TRUE, ncores = NULL, plot_convergence = FALSE,
                                            .options = harmony_options(), ..., reduction = NULL) {
  for (package in c("SingleCellExperiment", "SummarizedExperiment", "S4Vectors")) need_package(package)
  arguments <- list(theta = theta, sigma = sigma, lambda = lambda, nclust = nclust, max_iter = max_iter,
                    ncores = ncores)
  options <- engine_options(arguments, .options, list(...), early_stop)
  reduction.use <- any_case(if (is.null(reduction)) reduction.use else reduction,
                            SingleCellExperiment::reducedDimNames(object))
  Z <- chosen_dims(as.matrix(SingleCellExperiment::reducedDim(object, reduction.use)), dims.use)
  columns <- all_columns(SummarizedExperiment::colData(object), group.by.vars, options, colnames(object))
  fit <- correct(Z, columns, seeded(options), verbose = verbose, cells = colnames(object))
  colnames(fit$embedding) <- paste0(reduction.save, seq_len(ncol(Z)))
  SingleCellExperiment::reducedDim(object, reduction.save) <- fit$embedding
  S4Vectors::metadata(object)$harmonax <- fit$record
  if (plot_convergence) print(HarmonyConvergencePlot(fit$record))
  object
}

# Bioconductor writes "PCA" where Seurat writes "pca".
any_case <- function(name, known) {
  fits <- known[tolower(known) == tolower(name)]
  if (!name %in% known && length(fits) == 1) return(fits)
  check_name(name, known, "reduced dimension")
  name
}
