// The template browser shows a pack's workflows in the order in which the server's folder lists them. This puts those of
// this pack into the order in which an artist meets them; what is not named here comes last.
import { api } from "../../scripts/api.js";

const ORDER = [
  "lynx_mini",
  "lynx_full",
  "lynx_fast",
  "lynx_lite",
  "lynx_two_people",
  "lynx_face_refine",
  "lynx_long",
  "lynx_motion",
  "lynx_vace",
  "lynx_sweep",
  "lynx_wan22_two_experts",
  "lynx_wan22_i2v",
];

const rank = (name) => (ORDER.indexOf(name) + ORDER.length + 1) % (ORDER.length + 1);
const ask = api.getWorkflowTemplates;

api.getWorkflowTemplates = async function (...args) {
  const templates = await ask.apply(this, args);
  for (const names of Object.values(templates ?? {})) {
    if (Array.isArray(names) && names.includes(ORDER[0])) names.sort((a, b) => rank(a) - rank(b));
  }
  return templates;
};
