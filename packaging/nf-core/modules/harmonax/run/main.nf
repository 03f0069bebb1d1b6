process HARMONAX_RUN {
    tag "${meta.id}"
    label 'process_medium'

    conda "${moduleDir}/environment.yml"
    container "harmonax:0.2.0"

    input:
    tuple val(meta), path(counts)
    val batch_key

    output:
    tuple val(meta), path("${prefix}/integrated.h5ad"), emit: h5ad
    tuple val(meta), path("${prefix}/report.html"), emit: report
    tuple val(meta), path("${prefix}/metrics.tsv"), emit: metrics
    tuple val(meta), path("${prefix}/run.json"), emit: json
    tuple val(meta), path("${prefix}/harmonax_mqc.json"), emit: mqc
    path "versions.yml", emit: versions, topic: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    def batch = batch_key ? "--batch-key ${batch_key}" : ''
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    harmonax run \\
        ${counts} \\
        --output ${prefix} \\
        ${batch} \\
        --threads ${task.cpus} \\
        --quiet \\
        ${args}

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        harmonax: \$(harmonax --version | sed 's/.*version //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir ${prefix}
    touch ${prefix}/integrated.h5ad ${prefix}/report.html ${prefix}/metrics.tsv ${prefix}/run.json ${prefix}/harmonax_mqc.json

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        harmonax: \$(harmonax --version | sed 's/.*version //')
    END_VERSIONS
    """
}
