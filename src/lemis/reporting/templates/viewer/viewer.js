// The scans of the report, in three planes. Nothing is unpacked before the reader asks for it, and nothing is fetched.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const facts = JSON.parse($("viewer-facts").textContent);
  const AXIAL = 0, CORONAL = 1, SAGITTAL = 2;
  const PLANES = [SAGITTAL, CORONAL, AXIAL]; // that lie across the body axes right, front, head
  const DIFFERENCES = [[244, 162, 0], [74, 163, 255], [226, 96, 160]]; // missed, invented, another structure
  const state = { viewer: null, scan: -1, voxel: [0, 0, 0], mode: "both", mode_before: "prediction" };

  // ---------------------------------------------------------------- what the page offers

  const numbers = new Map(facts.scans.map((scan, number) => [scan.id, number]));

  function able() {
    const webgl = document.createElement("canvas").getContext("webgl2");
    webgl?.getExtension("WEBGL_lose_context")?.loseContext(); // browsers keep few of them
    return webgl && typeof DecompressionStream !== "undefined";
  }

  // After the page is drawn: to ask for WebGL takes a while.
  requestAnimationFrame(() => setTimeout(() => {
    if (able()) offer();
    else $("viewer-unable").hidden = false;
    $("viewer").dataset.state = "closed";
  }));

  function offer() {
    $("viewer").hidden = false;
    // Whatever names a scan opens it: rows of tables as a whole, and a button in them for the keyboard.
    for (const place of document.querySelectorAll("[data-scan]")) {
      const number = numbers.get(place.dataset.scan);
      if (number === undefined) continue;
      const name = place.querySelector("[data-scan-name]") || place;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "opens";
      button.title = "Open in the viewer";
      button.append(...name.childNodes);
      name.append(button);
      place.classList.add("openable");
      place.addEventListener("click", (event) => {
        open(number, event.target.closest("[data-structure]")?.dataset.structure, true);
      });
    }
    $("viewer-start").addEventListener("click", () => open(0, undefined, true));
    $("viewer-scan").addEventListener("change", (event) => open(Number(event.target.value)));
    $("viewer-before").addEventListener("click", () => open(Math.max(0, state.scan - 1)));
    $("viewer-after").addEventListener("click", () => open(Math.min(facts.scans.length - 1, state.scan + 1)));
    $("viewer-slice").addEventListener("input", (event) => turn(Number(event.target.value) - 1));
    $("viewer-opacity").addEventListener("input", paint);
    for (const choice of document.querySelectorAll("[name=viewer-mode]"))
      choice.addEventListener("change", () => show(choice.value));
    for (const box of document.querySelectorAll("[name=viewer-structure]")) box.addEventListener("change", paint);
    $("viewer-stage").addEventListener("keydown", (event) => {
      const steps = { ArrowUp: 1, PageUp: 1, ArrowDown: -1, PageDown: -1 };
      if (state.scan < 0 || !(event.key in steps || event.key === " ") || event.target !== $("viewer-canvas")) return;
      event.preventDefault();
      event.stopPropagation(); // NiiVue has other plans for these keys
      if (event.key === " ") show(state.mode_before);
      else turn(state.voxel[scan().axis] + steps[event.key]);
    }, true);
    window.addEventListener("resize", () => state.scan >= 0 && arranged());
  }

  function scan() {
    return facts.scans[state.scan];
  }

  // ---------------------------------------------------------------- unpacking

  async function inflated(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
  }

  async function started() {
    if (state.viewer) return state.viewer;
    const script = document.createElement("script");
    script.textContent = await (await inflated($("viewer-library").textContent)).text();
    document.head.append(script);
    const viewer = new niivue.Niivue({
      backColor: [0, 0, 0, 1], show3Dcrosshair: false, multiplanarShowRender: 0, isRadiologicalConvention: true,
      sagittalNoseLeft: true, crosshairColor: [1, 1, 1, 0.55], loadingText: "",
      logLevel: "error", dragAndDropEnabled: false, fontColor: [0.9, 0.9, 0.9, 1], clipPlaneHotKey: "", viewModeHotKey: "",
      cycleClipPlaneHotKey: "", isOrientationTextVisible: true,
    });
    await viewer.attachToCanvas($("viewer-canvas"));
    viewer.onLocationChange = () => said([...viewer.frac2mm(viewer.scene.crosshairPos, 0, true)]);
    return (state.viewer = viewer);
  }

  async function volume(number, kind, more) {
    const base64 = $(`viewer-${number}-${kind}`).textContent;
    return niivue.NVImage.loadFromBase64({ base64, name: `${kind}.nii.gz`, ...more });
  }

  let busy = Promise.resolve();
  function open(number, structure, from_elsewhere) {
    busy = busy.then(() => opened(number, structure)).then(() => {
      if (!from_elsewhere) return;
      $("viewer").scrollIntoView({ block: "nearest" });
      $("viewer-canvas").focus({ preventScroll: true });
    }).catch((error) => {
      $("viewer-said").textContent = `This scan cannot be shown here: ${error.message}`;
      $("viewer-stage").classList.remove("waits");
    });
    return busy;
  }

  async function opened(number, structure) {
    $("viewer-start").hidden = true;
    $("viewer").classList.remove("fresh");
    $("viewer-stage").classList.add("waits", "started");
    $("viewer").dataset.state = "waits";
    if (number !== state.scan) {
      await new Promise((resume) => setTimeout(resume)); // so that the reader sees that something happens
      const viewer = await started();
      for (const shown of [...viewer.volumes].reverse()) viewer.removeVolume(shown);
      const image = await volume(number, "image", { colormap: "gray", cal_min: 0, cal_max: 255 });
      const fill = await volume(number, "prediction", { opacity: 1 });
      const line = await volume(number, "prediction", { opacity: 1 });
      const has_reference = facts.scans[number].reference;
      state.prediction = Uint8Array.from(fill.img);
      state.reference = has_reference ? Uint8Array.from((await volume(number, "reference", {})).img) : null;
      for (const layer of [fill, line]) layer.setColormapLabel(colours(facts.structures.map((one) => one.rgb)));
      state.scan = number;
      [state.image, state.fill, state.line] = [image, fill, line];
      for (const one of [image, fill, line]) viewer.addVolume(one);
      viewer.setSliceType(viewer.sliceTypeMultiplanar);
      arranged();
      $("viewer-modes").hidden = !has_reference;
      $("viewer-scan").value = String(number);
      $("viewer-note").textContent = facts.scans[number].said;
      $("viewer-note").hidden = !facts.scans[number].said;
      $("viewer-slice").max = String(scan().shape[scan().axis]);
      $("viewer-before").disabled = number === 0;
      $("viewer-after").disabled = number === facts.scans.length - 1;
      paint();
    }
    go(scan().places[structure] || scan().place);
    for (const place of document.querySelectorAll("[data-scan]"))
      place.classList.toggle("shown", place.dataset.scan === scan().id);
    $("viewer-stage").classList.remove("waits");
    $("viewer").dataset.state = "ready";
  }

  // ---------------------------------------------------------------- where

  // The axis of the body that each axis of the scan runs along, more or less: 0 right, 1 front, 2 head.
  function body_axes() {
    return [0, 1, 2].map((axis) => {
      const along = scan().affine.slice(0, 3).map((row) => Math.abs(row[axis]));
      return along.indexOf(Math.max(...along));
    });
  }

  // The plane across the scan's slices is the large one; a line of the crosshair is about one pixel wide in it.
  function arranged() {
    const { viewer } = state;
    const { affine, shape, axis } = scan();
    const [width, height] = [$("viewer-stage").clientWidth, $("viewer-stage").clientHeight];
    const wide = width > 560;
    const places = wide
      ? [[0, 0, 0.62, 1], [0.62, 0, 0.38, 0.5], [0.62, 0.5, 0.38, 0.5]]
      : [[0, 0, 1, 0.62], [0, 0.62, 0.5, 0.38], [0.5, 0.62, 0.5, 0.38]];
    const first = PLANES[body_axes()[axis]];
    const planes = [first, ...[AXIAL, CORONAL, SAGITTAL].filter((plane) => plane !== first)];
    const sides_mm = [0, 1, 2]
      .map((other) => [body_axes()[other], shape[other] * Math.hypot(affine[0][other], affine[1][other], affine[2][other])])
      .filter((side, other) => other !== axis)
      .sort((one, other) => one[0] - other[0])
      .map((side) => side[1]);
    const pixels_per_mm = Math.min(places[0][2] * width / sides_mm[0], places[0][3] * height / sides_mm[1]);
    viewer.opts.crosshairWidth = 1.2 / pixels_per_mm;
    viewer.setCustomLayout(planes.map((sliceType, place) => ({ sliceType, position: places[place] })));
  }

  function applied(matrix, point) {
    return matrix.slice(0, 3).map((row) => row[0] * point[0] + row[1] * point[1] + row[2] * point[2] + row[3]);
  }

  function go(mm) {
    const viewer = state.viewer;
    viewer.scene.crosshairPos = viewer.mm2frac(mm, 0, true); // true: in the body, of oblique scans too
    viewer.createOnLocationChange();
    viewer.drawScene();
  }

  function turn(slice) {
    const voxel = [...state.voxel];
    voxel[scan().axis] = Math.min(Math.max(slice, 0), scan().shape[scan().axis] - 1);
    go(applied(scan().affine, voxel));
  }

  // ---------------------------------------------------------------- what

  function show(mode) {
    if (mode !== state.mode) [state.mode, state.mode_before] = [mode, state.mode];
    for (const choice of document.querySelectorAll("[name=viewer-mode]")) choice.checked = choice.value === mode;
    paint();
  }

  function colours(rgb) {
    const column = (k) => [0, ...rgb.map((one) => one[k])];
    return { R: column(0), G: column(1), B: column(2), A: [0, ...rgb.map(() => 255)], I: [...Array(rgb.length + 1).keys()], labels: [] };
  }

  function paint() {
    if (state.scan < 0) return;
    const { viewer, fill, line, prediction, reference } = state;
    const mode = reference ? state.mode : "prediction";
    const on = new Uint8Array(256);
    for (const box of document.querySelectorAll("[name=viewer-structure]")) on[box.value] = box.checked ? Number(box.value) : 0;
    const differences = mode === "differences";
    fill.setColormapLabel(colours(differences ? DIFFERENCES : facts.structures.map((one) => one.rgb)));
    line.img.fill(0);
    if (differences) {
      for (let place = 0; place < prediction.length; place++) {
        const found = on[prediction[place]], wanted = on[reference[place]];
        fill.img[place] = found === wanted ? 0 : !found ? 1 : !wanted ? 2 : 3;
      }
    } else {
      const filled = mode === "prediction" ? prediction : reference;
      for (let place = 0; place < filled.length; place++) fill.img[place] = on[filled[place]];
      if (mode === "both") outline(prediction, on, line.img);
    }
    for (const legend of document.querySelectorAll("[data-mode]")) legend.hidden = legend.dataset.mode !== mode;
    fill.opacity = Number($("viewer-opacity").value) / 100;
    viewer.updateGLVolume();
    // Label maps in their own voxels, the image between them: NiiVue has one setting for both.
    viewer.opts.isNearestInterpolation = true;
    viewer.updateInterpolation(1);
    viewer.opts.isNearestInterpolation = false;
    viewer.drawScene();
  }

  // Voxels at the border of a structure within its slice.
  function outline(labels, on, drawn) {
    const { shape } = scan();
    const strides = [1, shape[0], shape[0] * shape[1]];
    const axes = [0, 1, 2].filter((axis) => axis !== scan().axis);
    for (let place = 0; place < labels.length; place++) {
      const value = on[labels[place]];
      if (!value) continue;
      for (const axis of axes) {
        const at = Math.floor(place / strides[axis]) % shape[axis];
        const before = at > 0 ? on[labels[place - strides[axis]]] : 0;
        const after = at < shape[axis] - 1 ? on[labels[place + strides[axis]]] : 0;
        if (before !== value || after !== value) drawn[place] = value;
      }
    }
  }

  function said(mm) {
    const { shape, axis, voxels } = scan();
    state.voxel = applied(voxels, mm).map((value, along) => Math.min(Math.max(Math.round(value), 0), shape[along] - 1));
    const place = state.voxel[0] + shape[0] * (state.voxel[1] + shape[1] * state.voxel[2]);
    const name = (labels) => (labels[place] ? facts.structures[labels[place] - 1].name : "none");
    const letters = [["L", "R"], ["P", "A"], ["I", "S"]];
    const where = letters.map(([less, more], along) => `${mm[along] < 0 ? less : more} ${Math.abs(mm[along]).toFixed(1)}`);
    $("viewer-slice").value = String(state.voxel[axis] + 1);
    $("viewer-slice-said").textContent = `${state.voxel[axis] + 1} of ${shape[axis]}`;
    $("viewer-said").textContent = [
      `${where.join(", ")} mm`, `prediction: ${name(state.prediction)}`,
      ...(state.reference ? [`reference: ${name(state.reference)}`] : []),
    ].join(" \u00b7 ");
  }
})();
