skip_without_engine()
skip_if_not_installed("Seurat")
object <- small_seurat()

run <- function(object, ...) quiet(object, "batch", ..., rng = 0)

test_that("a reduction like those of Seurat is added", {
  done <- run(object)
  reduction <- done[["harmony"]]
  pcs <- Seurat::Embeddings(object, "pca")
  corrected <- quiet(pcs, object[[]], "batch", rng = 0)
  expect_s4_class(reduction, "DimReduc")
  expect_identical(unname(Seurat::Embeddings(reduction)), unname(corrected))
  expect_identical(rownames(Seurat::Embeddings(reduction)), colnames(object))
  expect_identical(colnames(Seurat::Embeddings(reduction)), paste0("harmony_", 1:10))
  expect_identical(Seurat::Key(reduction), "harmony_")
  expect_identical(Seurat::DefaultAssay(reduction), "RNA")
  expect_equal(Seurat::Stdev(reduction), unname(apply(corrected, 2, sd)))
  expect_identical(SeuratObject::Misc(reduction, "harmonax")$seed, 0L)
  expect_identical(Seurat::Embeddings(done, "pca"), pcs)
})

test_that("loadings are projected, unless not", {
  ProjectDim <- Seurat::ProjectDim
  expected <- ProjectDim(run(object, project.dim = FALSE), "harmony", overwrite = TRUE, verbose = FALSE)
  expect_identical(Seurat::Loadings(run(object), "harmony"), Seurat::Loadings(expected, "harmony"))
  expect_identical(dim(Seurat::Loadings(run(object), "harmony")), c(40L, 10L))
  expect_identical(dim(Seurat::Loadings(run(object, project.dim = FALSE), "harmony")), c(0L, 0L))
})

test_that("without scaled genes the correction is made, with a warning", {
  slim <- Seurat::DietSeurat(object, dimreducs = "pca")
  expect_warning(done <- run(slim), "no loadings for 'harmony'", class = "harmonax_warning")
  expect_identical(Seurat::Embeddings(done, "harmony"), Seurat::Embeddings(run(object), "harmony"))
})

test_that("the command is logged with what was asked", {
  done <- run(object, theta = 1.5, dims.use = 1:8)
  expect_identical(utils::tail(SeuratObject::Command(done), 1), "RunHarmony.RNA.pca")
  log <- done@commands[["RunHarmony.RNA.pca"]]
  expect_identical(log$group.by.vars, "batch")
  expect_identical(log$theta, 1.5)
  expect_identical(log$dims.use, 1:8)
})

test_that("dimensions, reduction and names are chosen", {
  pcs <- Seurat::Embeddings(object, "pca")
  done <- run(object, dims.use = c(1, 3, 4), reduction.save = "my_harmony", project.dim = FALSE)
  expect_identical(unname(Seurat::Embeddings(done, "my_harmony")),
                   unname(quiet(pcs[, c(1, 3, 4)], object[[]], "batch", rng = 0)))
  expect_identical(Seurat::Key(done[["my_harmony"]]), "myharmony_")
  other <- object
  other[["other"]] <- Seurat::CreateDimReducObject(pcs[, 1:5], key = "other_", assay = "RNA")
  by_new <- run(other, reduction.use = "other", project.dim = FALSE)
  expect_identical(Seurat::Embeddings(run(other, reduction = "other", project.dim = FALSE), "harmony"),
                   Seurat::Embeddings(by_new, "harmony"))
  expect_identical(ncol(by_new[["harmony"]]), 5L)
})

test_that("several variables have their own theta, and the identities are one", {
  done <- quiet(object, c("batch", "donor"), theta = c(2, 0.5), rng = 0)
  expected <- quiet(Seurat::Embeddings(object, "pca"), object[[]], c("batch", "donor"), theta = c(2, 0.5), rng = 0)
  expect_identical(unname(Seurat::Embeddings(done, "harmony")), unname(expected))
  Seurat::Idents(object) <- "batch"
  expect_identical(Seurat::Embeddings(quiet(object, "ident", rng = 0), "harmony"),
                   Seurat::Embeddings(run(object), "harmony"))
})

test_that("nothing is warned of", {
  expect_silent(RunHarmony(object, "batch", max_iter = 200, rng = 0, verbose = FALSE))
})

test_that("older calls run as they are", {
  older <- function(...) suppressWarnings(suppressMessages(RunHarmony(...)), classes = "harmonax_not_converged")
  done <- older(object, group.by.vars = "batch", reduction = "pca", assay.use = "RNA", theta = 2, lambda = 1,
                max.iter.harmony = 20, max.iter.cluster = 20, epsilon.cluster = 1e-5, epsilon.harmony = 1e-4,
                plot_convergence = FALSE, project.dim = TRUE)
  params <- SeuratObject::Misc(done[["harmony"]], "harmonax")$params
  expect_identical(params$max_iter_harmony, 20L)
  expect_identical(params$ridge, "fixed")
})

test_that("what is not there is named", {
  expect_error(run(object, reduction.use = "pcaa"), "no reduction 'pcaa'; did you mean 'pca'?",
               class = "harmonax_missing_key_error")
  expect_error(quiet(object, "bach"), "no column 'bach'; did you mean 'batch'?")
  expect_error(run(object, dims.use = 1:11), "numbers from 1 to 10")
  expect_error(run(object, return_object = TRUE), "no argument 'return_object'")
  broken <- object
  broken$batch[5] <- NA
  expect_error(run(broken), "first: cell 'cell5'")
})

test_that("set.seed decides", {
  seeded <- function() {
    set.seed(3)
    Seurat::Embeddings(quiet(object, "batch"), "harmony")
  }
  expect_identical(seeded(), seeded())
})

test_that("the convergence plot can be drawn from the object", {
  skip_if_not_installed("ggplot2")
  expect_s3_class(HarmonyConvergencePlot(run(object)), "ggplot")
})

# Seurat 5 is not here: a call as its IntegrateLayers makes it.
test_that("HarmonyIntegration returns the reduction under its name", {
  groups <- object[["batch"]][rev(colnames(object)), , drop = FALSE]
  found <- suppressWarnings(
    HarmonyIntegration(object = object[["RNA"]], assay = "RNA", orig = object[["pca"]], groups = groups,
                       layers = c("counts.1", "counts.2"), features = rownames(object), scale.layer = "scale.data",
                       new.reduction = "integrated", rng = 0, verbose = FALSE),
    classes = "harmonax_not_converged"
  )
  expect_named(found, "integrated")
  expect_identical(Seurat::Embeddings(found$integrated), Seurat::Embeddings(run(object), "harmony"))
  expect_identical(attr(HarmonyIntegration, "Seurat.method"), "integration")
})

test_that("HarmonyIntegration takes several variables with a theta each, and what stays", {
  meta <- object[[]]
  meta$chemistry <- rep(c("v2", "v3"), length.out = nrow(meta))
  variables <- c("batch", "chemistry")
  groups <- object[["batch"]]
  call <- function(...) suppressWarnings(
    HarmonyIntegration(object = object[["RNA"]], orig = object[["pca"]], groups = groups, rng = 0, verbose = FALSE, ...),
    classes = "harmonax_not_converged"
  )
  found <- call(meta_data = meta, group.by.vars = variables, theta = c(2, 0.5), protect = NULL)
  Z <- Seurat::Embeddings(object, "pca")
  both <- quiet(Z, meta, variables, theta = c(2, 0.5), rng = 0)
  expect_identical(unname(Seurat::Embeddings(found$harmony)), unname(both))
  first <- as.character(meta$batch[1])
  fixed <- call(meta_data = meta, group.by.vars = variables, reference = list(batch = first))
  stays <- meta$batch == first
  expect_identical(unname(Seurat::Embeddings(fixed$harmony)[stays, ]), unname(Z[stays, ]))
  expect_error(call(meta_data = meta), "go together")
})
