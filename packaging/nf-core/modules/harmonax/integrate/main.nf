process HARMONAX_INTEGRATE {
    tag "${meta.id}"
    label 'process_medium'

    conda "${moduleDir}/environment.yml"
    container "harmonax:0.2.0"

    input:
    tuple val(meta), path(h5ad)
    val batch_key

    output:
    tuple val(meta), path("${prefix}.h5ad"), emit: h5ad
    tuple val(meta), path("${prefix}.h5ad.run.json"), emit: json
    path "versions.yml", emit: versions, topic: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}_harmony"
    if ("${h5ad}" == "${prefix}.h5ad") error "Input and output have the same name: set task.ext.prefix"
    """
    harmonax integrate \\
        ${h5ad} \\
        --output ${prefix}.h5ad \\
        --batch-key ${batch_key} \\
        --threads ${task.cpus} \\
        --quiet \\
        ${args}

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        harmonax: \$(harmonax --version | sed 's/.*version //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}_harmony"
    """
    touch ${prefix}.h5ad ${prefix}.h5ad.run.json

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        harmonax: \$(harmonax --version | sed 's/.*version //')
    END_VERSIONS
    """
}
