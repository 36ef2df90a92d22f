// What one JavaScript program sees of a file, and what it writes: run by interchange.py.
//   node interchange_js.mjs MODULES PROGRAM version|read|write FILE [OUT]     (see interchange_py.py)
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [modules, program, verb, file, out] = process.argv.slice(2);
const require = createRequire(path.join(modules, 'x.js'));
const load = (name) => import(pathToFileURL(path.join(modules, name)).href);
const say = (value) => process.stdout.write(JSON.stringify(value) + '\n');
const bytes = (f) => { const b = fs.readFileSync(f); return b.buffer.slice(b.byteOffset, b.byteOffset + b.length); };
const versionOf = (name) => JSON.parse(fs.readFileSync(path.join(modules, name, 'package.json'))).version;
const srgb = (v) => (v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055);

async function three() {
  globalThis.self = globalThis;
  globalThis.ProgressEvent ??= class { };
  globalThis.FileReader ??= class {
    readAsArrayBuffer(blob) { blob.arrayBuffer().then((b) => { this.result = b; this.onloadend(); }); }
    readAsDataURL(blob) {
      blob.arrayBuffer().then((b) => { this.result = 'data:;base64,' + Buffer.from(b).toString('base64'); this.onloadend(); });
    }
  };
  const THREE = await load('three/build/three.module.js');
  const at = (name) => load(`three/examples/jsm/${name}.js`);
  const read = {
    glb: async () => {
      const { GLTFLoader } = await at('loaders/GLTFLoader');
      const loader = new GLTFLoader();
      loader.register((parser) => { // no pictures outside of a browser
        parser.loadTexture = async () => new THREE.Texture();
        return { name: 'none' };
      });
      return new Promise((good, bad) => loader.parse(bytes(file), '', (g) => good(g.scene), bad));
    },
    obj: async () => new (await at('loaders/OBJLoader')).OBJLoader().parse(fs.readFileSync(file, 'utf8')),
    ply: async () => new THREE.Mesh(new (await at('loaders/PLYLoader')).PLYLoader().parse(bytes(file))),
    stl: async () => new THREE.Mesh(new (await at('loaders/STLLoader')).STLLoader().parse(bytes(file))),
  };
  const scene = await read[path.extname(file).slice(1)]();
  if (verb === 'read') {
    const points = [], colors = [];
    let faces = 0;
    scene.updateMatrixWorld(true);
    scene.traverse((o) => {
      if (!o.isMesh) return;
      const p = o.geometry.attributes.position, c = o.geometry.attributes.color, v = new THREE.Vector3();
      faces += (o.geometry.index ? o.geometry.index.count : p.count) / 3;
      for (let i = 0; i < p.count; i++) {
        v.fromBufferAttribute(p, i).applyMatrix4(o.matrixWorld);
        points.push([v.x, v.y, v.z]);
        if (c) colors.push([c.getX(i), c.getY(i), c.getZ(i)].map(srgb));
      }
    });
    return say({ points, faces, colors: colors.length === points.length ? colors : null });
  }
  const write = {
    glb: async () => {
      scene.traverse((o) => { if (o.isMesh) o.material = new THREE.MeshStandardMaterial({ vertexColors: true }); });
      const { GLTFExporter } = await at('exporters/GLTFExporter');
      const result = await new GLTFExporter().parseAsync(scene, { binary: true });
      return Buffer.from(result);
    },
    obj: async () => new (await at('exporters/OBJExporter')).OBJExporter().parse(scene),
    ply: async () => Buffer.from(new (await at('exporters/PLYExporter')).PLYExporter().parse(scene, undefined, { binary: true })),
    stl: async () => { const r = new (await at('exporters/STLExporter')).STLExporter().parse(scene, { binary: true }); return Buffer.from(r.buffer); },
  };
  fs.writeFileSync(out, await write[path.extname(out).slice(1)]());
  say(null);
}

async function babylon() {
  const core = await load('@babylonjs/core/index.js');
  await load('@babylonjs/loaders/index.js');
  const engine = new core.NullEngine();
  const scene = new core.Scene(engine);
  const { STLFileLoader } = await load('@babylonjs/loaders/STL/stlFileLoader.js');
  STLFileLoader.DO_NOT_ALTER_FILE_COORDINATES = true;
  const data = 'data:;base64,' + fs.readFileSync(file).toString('base64');
  await core.SceneLoader.AppendAsync('', data, scene, undefined, path.extname(file));
  const points = [];
  let faces = 0;
  for (const mesh of scene.meshes) {
    const p = mesh.getVerticesData('position');
    if (!p) continue;
    faces += mesh.getTotalIndices() / 3;
    const world = mesh.computeWorldMatrix(true);
    for (let i = 0; i < p.length; i += 3) {
      const v = core.Vector3.TransformCoordinates(new core.Vector3(p[i], p[i + 1], p[i + 2]), world);
      points.push([-v.x, v.y, v.z]); // its world is left-handed
    }
  }
  say({ points, faces, colors: null });
  process.exit(0);
}

const PACKAGES = { three: 'three', babylon: '@babylonjs/core', 'gltf-transform': '@gltf-transform/cli', gltfpack: 'gltfpack',
  obj2gltf: 'obj2gltf', 'splat-transform': '@playcanvas/splat-transform', 'gltf-validator': 'gltf-validator' };
if (verb === 'version') say(versionOf(PACKAGES[program]));
else if (program === 'three') await three();
else if (program === 'babylon') await babylon();
else if (program === 'gltf-validator') {
  const report = await require('gltf-validator').validateBytes(new Uint8Array(fs.readFileSync(file)));
  say({ errors: report.issues.numErrors + report.issues.numWarnings, faces: report.info.totalTriangleCount });
}
