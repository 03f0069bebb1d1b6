process HARMONAX_MAP {
    tag "${meta.id}"
    label 'process_medium'

    conda "${moduleDir}/environment.yml"
    container "harmonax:0.2.0"

    input:
    tuple val(meta), path(h5ad), path(model)

    output:
    tuple val(meta), path("${prefix}.h5ad"), emit: h5ad
    path "versions.yml", emit: versions, topic: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}_mapped"
    if ("${h5ad}" == "${prefix}.h5ad") error "Input and output have the same name: set task.ext.prefix"
    """
    harmonax map \\
        ${h5ad} \\
        --output ${prefix}.h5ad \\
        --model ${model} \\
        --threads ${task.cpus} \\
        --quiet \\
        ${args}

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        harmonax: \$(harmonax --version | sed 's/.*version //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}_mapped"
    """
    touch ${prefix}.h5ad

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        harmonax: \$(harmonax --version | sed 's/.*version //')
    END_VERSIONS
    """
}
