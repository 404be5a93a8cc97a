// The sockets and links of Lynx have colours of their own. A palette of the editor sets all types it does not know back,
// so they are put on again whenever one is chosen. Nodes 2.0 takes them from CSS, the classic canvas from two tables.
import { app } from "../../scripts/app.js";

const COLOURS = {
  LYNX_ADAPTER: "#e0a030",
  LYNX_FACE_ANALYZER: "#4fb3a5",
  LYNX_FACE: "#f0a58f",
  LYNX_ID: "#e0527a",
  LYNX_REFERENCE: "#9a7be0",
};

function paint() {
  Object.assign(app.canvas.default_connection_color_byType, COLOURS);
  Object.assign(app.canvas.constructor.link_type_colors, COLOURS);
  for (const [type, colour] of Object.entries(COLOURS)) {
    document.documentElement.style.setProperty(`--color-datatype-${type}`, colour);
  }
  app.canvas.setDirty(true, true);
}

app.registerExtension({
  name: "Lynx.Colours",
  setup() {
    paint();
    // After the editor's own listener, which loads the palette.
    app.ui.settings.addEventListener("Comfy.ColorPalette.change", () => setTimeout(paint));
  },
  // A workflow may be opened before the palette is loaded.
  afterConfigureGraph: paint,
});
