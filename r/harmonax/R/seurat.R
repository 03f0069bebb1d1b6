#' @rdname RunHarmony
#' @export
RunHarmony.Seurat <- function(object, group.by.vars, reduction.use = "pca", dims.use = NULL, reduction.save = "harmony",
                              project.dim = TRUE, theta = NULL, sigma = 0.1, lambda = NULL, nclust = NULL,
                              max_iter = 10, early_stop = TRUE, ncores = NULL, plot_convergence = FALSE, verbose = TRUE,
                              .options = harmony_options(), ..., reduction = NULL, assay = NULL,
                              assay.use = assay) {
  need_package("SeuratObject")
  arguments <- list(theta = theta, sigma = sigma, lambda = lambda, nclust = nclust, max_iter = max_iter,
                    ncores = ncores)
  options <- engine_options(arguments, .options, list(...), early_stop)
  reduction.use <- if (is.null(reduction)) reduction.use else reduction
  check_name(reduction.use, SeuratObject::Reductions(object), "reduction")
  old <- object[[reduction.use]]
  Z <- chosen_dims(SeuratObject::Embeddings(old), dims.use)
  meta <- seurat_columns(object, c(group.by.vars, options$protect, options$covariates))
  columns <- all_columns(meta, group.by.vars, options, rownames(Z))
  fit <- correct(Z, columns, seeded(options), verbose = verbose, cells = rownames(Z))
  assay <- if (is.null(assay.use)) SeuratObject::DefaultAssay(old) else assay.use
  # The log takes what is called so into its name, as that of the command RunUMAP.RNA.pca.
  reduction <- reduction.use
  object[[reduction.save]] <- harmony_reduction(fit, reduction.save, assay)
  if (project.dim) object <- project(object, reduction.save, assay)
  if (plot_convergence) print(HarmonyConvergencePlot(fit$record))
  SeuratObject::LogSeuratCommand(object)
}

# The cells' table, with the active identities as the column that Seurat calls so.
seurat_columns <- function(object, wanted) {
  meta <- object[[]]
  if ("ident" %in% wanted && !"ident" %in% names(meta)) meta$ident <- SeuratObject::Idents(object)
  meta
}

chosen_dims <- function(Z, dims) {
  if (is.null(dims) || identical(as.integer(dims), seq_len(ncol(Z)))) return(Z)
  whole <- is.numeric(dims) && length(dims) > 0 && all(is.finite(dims)) && all(dims == trunc(dims))
  if (!whole || any(dims < 1 | dims > ncol(Z)) || anyDuplicated(dims)) {
    abort(sprintf("dims.use must be different whole numbers from 1 to %d, the dimensions there are", ncol(Z)))
  }
  Z[, dims, drop = FALSE]
}

# A DimReduc as RunPCA leaves one: embedding under its own key, standard deviations, assay.
harmony_reduction <- function(fit, name, assay, key = paste0(gsub("[^[:alnum:]]", "", name), "_")) {
  embedding <- fit$embedding
  colnames(embedding) <- paste0(key, seq_len(ncol(embedding)))
  SeuratObject::CreateDimReducObject(
    embeddings = embedding, stdev = unname(apply(embedding, 2, stats::sd)), key = key, assay = assay,
    misc = list(harmonax = fit$record)
  )
}

# Loadings need scaled genes, which a slimmed object lacks: the correction is good without them.
project <- function(object, name, assay) {
  need_package("Seurat")
  # Under its own name: the log would have "Seurat::ProjectDim", and a warning.
  ProjectDim <- Seurat::ProjectDim
  tryCatch(
    ProjectDim(object, reduction = name, assay = assay, overwrite = TRUE, verbose = FALSE),
    error = function(e) {
      caution(paste0("no loadings for '", name, "': ", conditionMessage(e),
                     "; pass project.dim = FALSE, or run ScaleData"))
      object
    }
  )
}
