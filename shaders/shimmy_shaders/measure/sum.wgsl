// Sums the words, as fast as they can be read: a stretch of ${vectors} vectors for each workgroup.
@group(0) @binding(0) var<storage, read> words: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    var sum = vec4<u32>();
    for (var i = lane; i < ${vectors}u; i += 1024u) {
        let at = group.x * ${vectors}u + i;
        sum += words[at] + words[at + 256u] + words[at + 512u] + words[at + 768u];
    }
    sums[group.x * 256u + lane] = sum.x + sum.y + sum.z + sum.w;
}
