skip_without_engine()

# A fresh R with another Python; what it prints.
in_fresh_r <- function(code, python, ...) {
  file <- tempfile(fileext = ".R")
  on.exit(unlink(file))
  writeLines(c(sprintf(".libPaths(%s)", paste(deparse(.libPaths()), collapse = "")), "library(harmonax)", code), file)
  environment <- c(paste0("RETICULATE_PYTHON=", python), ...)
  suppressWarnings(system2(file.path(R.home("bin"), "Rscript"), shQuote(file), stdout = TRUE, stderr = TRUE,
                           env = environment))
}

test_that("a Python without harmonax is a clear condition", {
  bare <- tempfile("bare")
  on.exit(unlink(bare, recursive = TRUE))
  made <- system2(reticulate::py_config()$python, c("-m", "venv", "--without-pip", shQuote(bare)))
  skip_if_not(made == 0, "a virtual environment")
  python <- Sys.glob(file.path(bare, c("bin/python", "Scripts/python.exe")))
  code <- c("print(isFALSE(c(harmonax_available())))",
            "tryCatch(RunHarmony(matrix(0, 4, 2), 1:4), harmonax_engine_missing = function(e) cat(conditionMessage(e)))")
  told <- paste(in_fresh_r(code, python), collapse = "\n")
  expect_match(told, "[1] TRUE", fixed = TRUE)
  expect_match(told, "harmonax cannot be loaded by the Python at .*run harmonax_install\\(\\)")
  expect_false(grepl("Traceback|File \"", told))
})

test_that("a Python that is not there is a clear condition", {
  code <- "tryCatch(RunHarmony(matrix(0, 4, 2), 1:4), harmonax_python_error = function(e) cat(conditionMessage(e)))"
  told <- paste(in_fresh_r(code, file.path(tempdir(), "no-python")), collapse = "\n")
  expect_match(told, "Python cannot be started.*RETICULATE_PYTHON")
})

test_that("no recent Python to install with is a clear condition", {
  expect_error(harmonax_install(python = "no-such-python", force = TRUE, envname = tempfile()),
               "is not Python 3.11 or later", class = "harmonax_python_missing")
})

test_that("a Python of its own libraries finds them first, and R's folders are back afterwards", {
  before <- Sys.getenv("LD_LIBRARY_PATH", NA)
  on.exit(if (is.na(before)) Sys.unsetenv("LD_LIBRARY_PATH") else Sys.setenv(LD_LIBRARY_PATH = before))
  all_folders <- paste(file.path(R.home(), "lib"), "/usr/lib/x86_64-linux-gnu", "/opt/mine/lib", sep = ":")
  Sys.setenv(LD_LIBRARY_PATH = all_folders)
  expect_identical(with_own_libraries(Sys.getenv("LD_LIBRARY_PATH")), "/opt/mine/lib")
  expect_error(with_own_libraries(stop("no")))
  expect_identical(Sys.getenv("LD_LIBRARY_PATH"), all_folders)
})

test_that("nothing is installed where the engine is there", {
  expect_message(harmonax_install(), "harmonax is there already")
})

# Takes a wheel or a checkout, and a package index for what it needs.
test_that("harmonax_install makes an environment that works", {
  source <- Sys.getenv("HARMONAX_R_INSTALL_FROM")
  if (source == "") skip("set HARMONAX_R_INSTALL_FROM to what harmonax_install() is to install, such as a wheel")
  home <- tempfile("environments")
  on.exit(unlink(home, recursive = TRUE))
  python <- reticulate::py_config()$python
  code <- c("Sys.unsetenv('RETICULATE_PYTHON')",
            sprintf("harmonax_install(source = %s, python = %s)", deparse(source), deparse(python)),
            "Z <- matrix(rnorm(600), 200)",
            "cat('corrected', dim(RunHarmony(Z, rep(1:2, 100), max_iter = 50, verbose = FALSE)), '\\n')",
            "cat('with', reticulate::py_config()$python)")
  told <- paste(utils::tail(in_fresh_r(code, "", paste0("WORKON_HOME=", home)), 5), collapse = "\n")
  expect_match(told, "corrected 200 3\\b")
  expect_match(told, paste0("with ", home, ".*r-harmonax"))
})
