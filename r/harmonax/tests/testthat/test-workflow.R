skip_without_engine()
skip_if_not_installed("Seurat")

test_that("the Seurat workflow runs from counts, and the correction is that of Python", {
  data <- kang()
  object <- Seurat::CreateSeuratObject(data$counts, meta.data = data$meta)
  object <- Seurat::NormalizeData(object, verbose = FALSE)
  object <- Seurat::FindVariableFeatures(object, verbose = FALSE)
  object <- Seurat::ScaleData(object, verbose = FALSE)
  object <- Seurat::RunPCA(object, npcs = 30, verbose = FALSE)
  object <- quiet(object, group.by.vars = "batch", rng = 0)
  theirs <- in_python(Seurat::Embeddings(object, "pca"), data$meta["batch"])
  expect_identical(unname(Seurat::Embeddings(object, "harmony")), theirs$embedding)

  object <- Seurat::FindNeighbors(object, reduction = "harmony", dims = 1:30, verbose = FALSE)
  object <- Seurat::FindClusters(object, resolution = 0.5, verbose = FALSE)
  object <- suppressWarnings(Seurat::RunUMAP(object, reduction = "harmony", dims = 1:30, verbose = FALSE))
  plot <- Seurat::DimPlot(object, reduction = "umap", group.by = "batch")
  expect_s3_class(plot, "ggplot")
  expect_identical(dim(Seurat::Embeddings(object, "umap")), c(ncol(object), 2L))

  # Clusters are cell types rather than batches, which before they were not.
  share <- function(cluster) prop.table(table(cluster, object$batch), 1)[, "ctrl"]
  mixed <- function(cluster) weighted.mean(abs(share(cluster) - mean(object$batch == "ctrl")), table(cluster))
  before <- Seurat::FindClusters(Seurat::FindNeighbors(object, reduction = "pca", dims = 1:30, verbose = FALSE),
                                 resolution = 0.5, verbose = FALSE)
  expect_lt(mixed(object$seurat_clusters), 0.6 * mixed(before$seurat_clusters))
  labelled <- object$cell_type != "unlabelled"
  types <- table(object$seurat_clusters[labelled], object$cell_type[labelled])
  expect_gt(sum(apply(types, 1, max)) / sum(types), 0.85)
})
