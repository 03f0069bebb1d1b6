#' Harmony for IntegrateLayers of Seurat 5
#'
#' `IntegrateLayers(object, method = harmonax::HarmonyIntegration)`. Written for Seurat 5 but tested with Seurat 4 only,
#' by calls like those of `IntegrateLayers`.
#'
#' @param object Assay whose layers are the batches; not used.
#' @param orig The reduction to correct, a `DimReduc`.
#' @param groups A data frame with the batch of each cell, as `IntegrateLayers` makes it of the layers.
#' @param meta_data,group.by.vars A data frame with a row per cell, such as `object[[]]`, and its batch columns, in place of
#'   the layers: several are separate variables, with a `theta` each.
#' @param features,scale.layer,layers,npcs Not used; here since `IntegrateLayers` passes them.
#' @param new.reduction,key Name and key of the new reduction.
#' @param theta,lambda,sigma,nclust,verbose As in [RunHarmony()].
#' @param max.iter.harmony Maximum number of rounds.
#' @param ... Further arguments of [RunHarmony()].
#'
#' @return A list with the new reduction, under its name.
#' @export
HarmonyIntegration <- function(object, orig, groups = NULL, features = NULL, scale.layer = "scale.data",
                               new.reduction = "harmony", layers = NULL, npcs = NULL, key = "harmony_", theta = NULL,
                               lambda = NULL, sigma = 0.1, nclust = NULL, max.iter.harmony = 10, verbose = TRUE,
                               meta_data = NULL, group.by.vars = NULL, ...) {
  need_package("SeuratObject")
  if (is.null(groups) && is.null(meta_data)) abort("groups is missing: call this through Seurat::IntegrateLayers()")
  if (is.null(meta_data) != is.null(group.by.vars)) abort("meta_data and group.by.vars go together")
  Z <- SeuratObject::Embeddings(orig)
  table <- if (is.null(meta_data)) groups else meta_data
  vars_use <- if (is.null(meta_data)) names(groups)[1] else group.by.vars
  missing_cells <- setdiff(rownames(Z), rownames(table))
  if (length(missing_cells)) {
    what <- if (is.null(meta_data)) "groups" else "meta_data"
    abort(sprintf("%s has no row for %d cells (first: cell '%s')", what, length(missing_cells), missing_cells[1]))
  }
  table <- table[rownames(Z), , drop = FALSE]
  arguments <- list(theta = theta, sigma = sigma, lambda = lambda, nclust = nclust, max_iter = max.iter.harmony,
                    ncores = NULL)
  dots <- list(...)
  # IntegrateLayers also passes arguments of other methods.
  dots <- dots[intersect(names(dots), c(names(ALIASES), PARAMETERS))]
  options <- engine_options(arguments, harmony_options(), dots)
  columns <- all_columns(table, vars_use, options, rownames(Z))
  fit <- correct(Z, columns, seeded(options), verbose = verbose, cells = rownames(Z))
  reduction <- harmony_reduction(fit, new.reduction, SeuratObject::DefaultAssay(orig), key)
  stats::setNames(list(reduction), new.reduction)
}
# How IntegrateLayers knows that this is one of its methods.
attr(HarmonyIntegration, "Seurat.method") <- "integration"
